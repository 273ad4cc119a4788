"""Bringing features to disk: once each, in any number of runs, for the images they are of."""

import numpy as np
import pytest

from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.train.evaluation_work import Work
from ldm_jax.train.feature_readers import Reader
from ldm_jax.train.sample_set import SampleSet

PIXELS = {"name": "pixels", "sha256": "0", "resize": "none"}
CLIP = {"name": "CLIP", "sha256": "1", "resize": "none"}
PREPROCESSING = {"image_size": 2, "channels": 3}


class Numbers:
    """Images, and captions, that say their number; remembers what was drawn."""

    preprocessing = PREPROCESSING

    def __init__(self, name, size=None, offset=0):
        self.name, self.size, self.offset, self.drawn = name, size, offset, []
        self.key = {"part": name, "split": None, "offset": offset}

    def __len__(self):
        return self.size

    def images(self, numbers):
        self.drawn.append(numbers.tolist())
        return (numbers + self.offset).astype(np.uint8)[:, None, None, None] + np.zeros(
            (1, 2, 2, 3), np.uint8
        )

    def captions(self, numbers):
        return [str(number) for number in numbers]


def first_pixel(numbers, images):
    return {"features": images[:, 0, 0].astype(np.float32)}


def make(seed=0, count=10, clip=False):
    """Returns work of 10 samples, each as bright as seed + its number."""
    images = Numbers("samples", offset=seed)
    key = {"task": {"name": "none"}, "seed": seed, "step": 3}
    readers = {"extractor": Reader(PIXELS, {"features": (3,)}, first_pixel)}
    captions = None
    if clip:
        readers["clip"] = Reader(CLIP, {"features": (3,)}, first_pixel)
        captions = Reader(
            {"name": "captions of CLIP"},
            {"features": (3,)},
            lambda numbers, texts: {"features": np.array([3 * [int(text)] for text in texts])},
        )
    reference = Numbers("train", size=4, offset=100)
    samples = SampleSet(key, images.images, 2, "sample")
    return (
        Work(samples, count, reference, 4, reference, readers, captions, make_mesh()),
        images,
        reference,
    )


def fill(work, tmp_path, metrics=("fid",), progress=None, each=3):
    return work.fill(metrics, tmp_path / "out", tmp_path / "cache", each, progress)


def values(work, logs):
    return work.features(logs).samples("features")[:, 0].tolist()


def test_images_are_drawn_once_and_in_whole_batches(tmp_path):
    work, images, reference = make()
    reports = []
    logs = fill(work, tmp_path, progress=lambda *report: reports.append(report))
    # Four at once: three are wanted, and the programs draw two at a time.
    assert images.drawn == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert values(work, logs) == list(range(10))
    assert work.features(logs).reference("features")[:, 1].tolist() == [100, 101, 102, 103]
    assert reports == [
        *(("reference", 0, 4), ("reference", 4, 4)),
        *(("sample", 0, 10), ("sample", 4, 10), ("sample", 4, 10), ("sample", 2, 10)),
    ]
    again, images, reference = make()
    assert values(again, fill(again, tmp_path)) == list(range(10))
    assert images.drawn == reference.drawn == []
    more, images, _ = make(count=13)
    assert values(more, fill(more, tmp_path)) == list(range(13))
    assert images.drawn == [[10, 11, 12]]
    fewer, images, _ = make(count=5)
    assert values(fewer, fill(fewer, tmp_path)) == list(range(5))
    assert images.drawn == []


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    def kill(what, count, total):
        if (what, count) == ("sample", 4):
            raise KeyboardInterrupt

    work, images, _ = make()
    with pytest.raises(KeyboardInterrupt):
        fill(work, tmp_path, progress=kill)
    assert images.drawn == [[0, 1, 2, 3]]
    work, images, reference = make()
    logs = fill(work, tmp_path, each=4)
    assert images.drawn == [[4, 5, 6, 7], [8, 9]]
    assert reference.drawn == []
    assert values(work, logs) == list(range(10))


def test_a_damaged_file_alone_is_made_again(tmp_path):
    work, _, _ = make()
    logs = fill(work, tmp_path)
    (logs["extractor"].folder / "rows-000000004-000000008.npz").write_bytes(b"damaged")
    work, images, _ = make()
    assert values(work, fill(work, tmp_path)) == list(range(10))
    assert images.drawn == [[4, 5, 6, 7]]


def test_another_seed_is_another_folder(tmp_path):
    work, _, _ = make(seed=0)
    fill(work, tmp_path)
    other, images, reference = make(seed=7)
    logs = fill(other, tmp_path)
    assert len(images.drawn) == 3
    assert reference.drawn == []  # real images are the same ones
    assert values(other, logs) == list(range(7, 17))
    assert work.pins() != other.pins()


def test_a_second_reader_reads_the_same_images_and_the_first_is_not_asked_again(tmp_path):
    """Captions repeat as the conditions do: sample k has that of example k mod 4."""
    work, _, _ = make()
    fill(work, tmp_path)
    both, images, reference = make(clip=True)
    logs = fill(both, tmp_path, ("fid", "clip"))
    assert [number for batch in images.drawn for number in batch] == list(range(10))
    assert reference.drawn == []
    seen, texts = both.features(logs).captions()
    assert seen[:, 0].tolist() == list(range(10))
    assert texts[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert set(logs) == {"extractor", "clip", "reference", "captions"}
    assert set(both.made_by(logs)) == set(logs)


def test_what_is_pinned():
    work, _, _ = make(seed=5, clip=True)
    pins = work.pins()
    assert pins["samples"] == {
        **{"count": 10, "seed": 5, "step": 3},
        "conditions": pins["samples"]["conditions"],
        "hash": pins["samples"]["hash"],
    }
    assert (pins["samples"]["conditions"]["set"], pins["reference"]["set"]) == ("train", "train")
    assert (pins["reference"]["count"], pins["reference"]["of"]) == (4, 4)
    assert pins["preprocessing"] == PREPROCESSING
    assert (pins["extractor"], pins["clip"]) == (PIXELS, CLIP)
    assert pins["model"] == {"name": "none"}
