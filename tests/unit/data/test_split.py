"""What is held out is never trained on."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data import Shapes
from ldm_jax.data.folder import Folder
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.source import Source
from ldm_jax.data.split import example_name, split


class Numbered:
    """A source whose images tell their index."""

    class_names = ("a", "b")
    quarantine = {"x.png": "broken"}

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"image": np.full((4, 4, 3), index, np.uint8), "class": index % 2}

    def __repr__(self):
        return f"Numbered({self.size})"


def indices(source):
    return [int(source[k]["image"][0, 0, 0]) for k in range(len(source))]


def test_both_parts_together_are_the_whole():
    train, held_out = split(Numbered(50), 12)
    assert (len(train), len(held_out)) == (38, 12)
    assert sorted(indices(train) + indices(held_out)) == list(range(50))
    assert indices(train) == sorted(indices(train))
    assert isinstance(train, Source)
    assert train.class_names == ("a", "b")
    assert train.quarantine == {"x.png": "broken"}


def test_the_choice_is_the_same_for_ever_and_grows():
    assert indices(split(Numbered(50), 6)[1]) == [2, 3, 11, 13, 20, 48]
    assert set(indices(split(Numbered(50), 6)[1])) < set(indices(split(Numbered(50), 20)[1]))


def test_a_stream_never_shows_what_is_held_out():
    train, held_out = split(Numbered(20), 5)
    stream = make_stream(train, batch_size=5, image_size=4, num_threads=0, prefetch=0)
    seen = {int(x) for _ in range(9) for x in next(stream)["image"][:, 0, 0, 0]}
    assert seen == set(indices(train))
    assert not seen & set(indices(held_out))


def test_what_stands_in_for_a_broken_file_is_not_held_out_either(tmp_path):
    for number in range(12):
        Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / f"{number:02d}.png")
    whole = Folder(str(tmp_path), max_bad_fraction=0.5)
    train, held_out = split(whole, 6)
    kept, away = indices(train), indices(held_out)
    bad = next(k for k, n in enumerate(kept) if (n + 1) % 12 in away)
    last = kept[-1]
    for number in (kept[bad], last):
        (tmp_path / f"{number:02d}.png").write_bytes(b"broken")
    train, _ = split(Folder(str(tmp_path), max_bad_fraction=0.5), 6)
    good = [n for n in kept if n not in (kept[bad], last)]
    following = next(n for n in [*kept[bad:], *good] if n in good)
    assert indices(train)[bad] == train[bad]["index"] == following
    assert indices(train)[-1] == train[5]["index"] == good[0]  # round to the beginning
    assert set(indices(train)) == set(good)
    assert example_name(train, following) == str(tmp_path / f"{following:02d}.png")
    assert example_name(Shapes(num_examples=4), 1) is None


def test_repr_is_stable_and_tells_splits_apart():
    source = Shapes(num_examples=30)
    assert repr(split(source, 3)[0]) == repr(split(source, 3)[0])
    assert len({repr(part) for n in (3, 4) for part in split(source, n)}) == 4


@pytest.mark.parametrize("holdout", [0, -1, 20, 21])
def test_nothing_left_is_an_error(holdout):
    with pytest.raises(UserError, match=rf"holdout={holdout}, of 20 examples\. Legal: 0 to 19"):
        split(Numbered(20), holdout)
