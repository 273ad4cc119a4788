import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.mirrored_captions import mirror_caption, names_side
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.tokenizers import WordTokenizer

WORDS = WordTokenizer(("a", "cat", "on", "the", "left", "right", "leftover"), 5)


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a cat on the left", "a cat on the right"),
        ("RIGHT, Left and left-hand side", "LEFT, Right and right-hand side"),
        ("the leftmost of the rightward arrows", "the rightmost of the leftward arrows"),
        ("turning Clockwise", "turning Counterclockwise"),
        ("turning anti-clockwise", "turning clockwise"),
        ("the counter-clockwise one", "the clockwise one"),
        ("left\nright", "right\nleft"),
    ],
)
def test_captions_that_name_a_side(caption, mirrored):
    assert names_side(caption)
    assert mirror_caption(caption, "refuse") == (False, caption)
    assert mirror_caption(caption, "swap") == (True, mirrored)
    assert mirror_caption(caption, "any") == (True, caption)


@pytest.mark.parametrize(
    "caption", ["", "leftovers upright", "copyright bright", "clock", "lefthook"]
)
def test_parts_of_words_are_no_sides(caption):
    for policy in ("refuse", "swap", "any"):
        assert mirror_caption(caption, policy) == (True, caption)


class Cats:
    """Bright on the left until mirrored; every other caption says so."""

    class_names = None

    def __init__(self, moments=False):
        self.moments = moments

    def __repr__(self):
        return "Cats()"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = np.zeros((2, 3, 1), np.uint8)
        image[:, 0] = 100
        text = "a cat on the left" if index % 2 else "a cat"
        both = np.stack([image, image[:, ::-1]]).astype(np.float32)
        seen = {"moments": both} if self.moments else {"image": image}
        return {**seen, "text": text, "class": index}


def examples(policy, moments=False, **more):
    """Returns {(epoch, index): (is mirrored, tokens)} of six epochs."""
    options = {"batch_size": 12, "image_size": (2 if moments else 3), "channels": 1, "seed": 4}
    options |= {"flip_probability": 0.5, "tokenizer": WORDS, "shuffle": False, **more}
    if policy is not None:
        options["flip_captions"] = policy
    stream = make_stream(Cats(moments), **options)
    found = {}
    for epoch in range(6):
        batch = next(stream)
        images = batch["moments" if moments else "image"]
        for k, image, tokens in zip(
            batch["class"].tolist(), images, batch.get("tokens", images), strict=True
        ):
            found[epoch, k] = bool(image[0, 0, 0] < image[0, -1, 0]), tokens.tolist()
    return found


@pytest.mark.parametrize("moments", [False, True])
def test_the_option_changes_captions_with_sides_alone(moments):
    refused, swapped, plain = (examples(policy, moments) for policy in ("refuse", "swap", "any"))
    sentences = ("a cat on the left", "a cat on the right", "a cat")
    left, right, without = (WORDS(sentence).tolist() for sentence in sentences)
    flips = {place for place, (flip, _) in plain.items() if flip}
    assert 20 < len(flips) < 52  # of 72
    for place in plain:
        flip = place in flips
        if place[1] % 2:
            assert refused[place] == (False, left)
            assert swapped[place] == (flip, right if flip else left)
            assert plain[place] == (flip, left)
        else:
            assert refused[place] == swapped[place] == plain[place] == (flip, without)
    assert examples(None, moments) == refused  # the default


def test_captions_that_the_batch_does_not_hold_refuse_nothing():
    keys = ("image", "class")
    found = examples("refuse", keys=keys)
    assert {k for k, v in found.items() if v[0]} == {k for k, v in examples("any").items() if v[0]}


def test_an_unknown_option_is_named():
    with pytest.raises(
        UserError, match=r"data.flip_captions: got 'never'.*Legal: refuse, swap, any"
    ):
        examples("never")
