import json

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.pipeline import load_examples, make_stream
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.tokenizers import WordTokenizer

SOURCE = Shapes(24, num_examples=13)
OPTIONS = {"batch_size": 4, "image_size": 16, "seed": 3, "random_crop": True}
OPTIONS |= {"flip_probability": 0.5, "tokenizer": WordTokenizer("shapes", 12)}


class Numbers:
    """Images that show their own index."""

    class_names = None

    def __init__(self, count):
        self.count = count
        self.read = []

    def __repr__(self):
        return f"Numbers({self.count})"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return {"image": np.full((4, 4, 1), index, np.uint8), "class": index}


def take(stream, count):
    return [next(stream) for _ in range(count)]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for got, want in zip(batches, expected, strict=True):
        assert got.keys() == want.keys()
        for key in want:
            np.testing.assert_array_equal(got[key], want[key])


@pytest.fixture(scope="module")
def uninterrupted():
    return take(make_stream(SOURCE, **OPTIONS), 10)


def test_shapes_and_types(uninterrupted):
    batch = uninterrupted[0]
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((4, 16, 16, 3), "uint8"),
        "class": ((4,), "int32"),
        "tokens": ((4, 12), "int32"),
    }
    keys = ("image", "boxes", "segmentation")
    batch = next(make_stream(SOURCE, batch_size=2, image_size=16, channels=1, keys=keys))
    assert batch["image"].shape == (2, 16, 16, 1)
    assert batch["boxes"].shape == (2, 3, 5)
    assert batch["segmentation"].shape == (2, 16, 16)


def test_each_epoch_holds_each_example_once_in_a_new_order():
    stream = make_stream(Numbers(12), batch_size=4, image_size=4, seed=1)
    epochs = [np.concatenate([b["class"] for b in take(stream, 3)]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert stream.steps_per_epoch == 3
    other = make_stream(Numbers(12), batch_size=4, image_size=4, seed=2)
    assert next(other)["class"].tolist() != epochs[0][:4]


def test_without_shuffling_the_order_is_the_source_s_and_batches_cross_epochs():
    stream = make_stream(Numbers(5), batch_size=2, image_size=4, shuffle=False, num_epochs=2)
    assert [b["class"].tolist() for b in stream] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]


def test_an_example_is_transformed_anew_in_each_epoch():
    source = Shapes(24, num_examples=1)
    stream = make_stream(
        source, batch_size=1, image_size=24, channels=3, flip_probability=0.5, seed=0
    )
    assert len({batch["image"].tobytes() for batch in take(stream, 20)}) == 2


@pytest.mark.parametrize("done", [0, 1, 7])
def test_resuming_gives_the_same_bits(uninterrupted, done):
    first = make_stream(SOURCE, **OPTIONS)
    take(first, done)
    state = json.loads(json.dumps(first.get_state()))
    resumed = make_stream(SOURCE, **OPTIONS, num_threads=2, prefetch=3)
    next(resumed)
    resumed.set_state(state)
    assert_same(take(resumed, 10 - done), uninterrupted[done:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_hold_contiguous_rows_of_the_same_global_batches(uninterrupted, count):
    streams = [
        make_stream(SOURCE, **OPTIONS, process_index=p, process_count=count) for p in range(count)
    ]
    assert streams[0].batch_size == 4
    assert streams[0].local_batch_size == 4 // count
    parts = zip(*(take(stream, 10) for stream in streams), strict=True)
    joined = [{k: np.concatenate([p[k] for p in part]) for k in part[0]} for part in parts]
    assert_same(joined, uninterrupted)


def test_a_run_may_be_resumed_with_another_number_of_processes(uninterrupted):
    stream = make_stream(SOURCE, **OPTIONS)
    take(stream, 5)
    half = make_stream(SOURCE, **OPTIONS, process_index=1, process_count=2)
    half.set_state(stream.get_state())
    np.testing.assert_array_equal(next(half)["image"], uninterrupted[5]["image"][2:])


def test_a_process_reads_its_own_rows_only():
    source = Numbers(16)
    stream = make_stream(
        source,
        batch_size=8,
        image_size=4,
        shuffle=False,
        process_index=1,
        process_count=2,
        num_epochs=1,
        prefetch=0,
    )
    source.read.clear()
    list(stream)
    assert source.read == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_state_of_another_stream_is_refused():
    state = make_stream(SOURCE, **OPTIONS).get_state()
    other = make_stream(SOURCE, **{**OPTIONS, "batch_size": 2})
    with pytest.raises(UserError, match="cannot resume, batch_size is 2 and was 4 in the saved"):
        other.set_state(state)


def test_load_examples():
    tokenizer = WordTokenizer("shapes", 12)
    batch = load_examples(SOURCE, (3, 0), image_size=24, tokenizer=tokenizer)
    assert batch["text"] == [SOURCE[3]["text"], SOURCE[0]["text"]]
    np.testing.assert_array_equal(batch["image"][1], SOURCE[0]["image"])
    np.testing.assert_array_equal(batch["tokens"][0], tokenizer(SOURCE[3]["text"]))
    assert batch["class"].tolist() == [SOURCE[3]["class"], SOURCE[0]["class"]]
    with pytest.raises(UserError, match="got no indices"):
        load_examples(SOURCE, (), image_size=24)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, r"data.batch_size: got 0. Legal: at least 1"),
        ({"batch_size": 14}, r"got 14, more than the 13 examples of Shapes.*Legal: at most 13"),
        ({"process_count": 3}, r"process_count=3 must divide data.batch_size=4. Legal: 1, 2, 4"),
        ({"process_index": 1}, r"process_index: got 1. Legal: 0 .. 0"),
        ({"seed": -1}, r"data.seed: got -1. Legal: 0"),
        ({"num_epochs": 0}, r"data.num_epochs: got 0. Legal: None, or at least 1"),
        ({"keys": ("image", "depth")}, r"data.keys: got 'depth' .* Legal: image, class, tokens"),
        ({"keys": ("class",)}, r"data.keys: got \('class',\). Legal: tuples with image"),
        (
            {"keys": ("image", "tokens"), "tokenizer": None},
            r"data.keys: got 'tokens' \(tokens need a tokenizer\)",
        ),
    ],
)
def test_errors(changed, message):
    with pytest.raises(UserError, match=message):
        make_stream(SOURCE, **{**OPTIONS, **changed})


def test_a_tokenizer_needs_captions():
    with pytest.raises(UserError, match=r"Numbers\(9\) has no captions; .* image, class"):
        make_stream(Numbers(9), batch_size=1, image_size=4, tokenizer=WordTokenizer())


class Cached:
    """Two examples of a latent cache: moments of image and mirror image, and answers."""

    class_names = None

    def __len__(self):
        return 2

    def __getitem__(self, index):
        moments = np.stack([np.zeros((1, 1, 2)), np.ones((1, 1, 2))]).astype(np.float32)
        text = ("a cat", "a cat on the left")[index]
        return {"moments": moments, "text": text, "context": np.full((1, 2), index, np.float32)}


def test_cached_answers_obey_their_caption_when_it_comes_to_mirroring():
    options = {"batch_size": 2, "image_size": 8, "flip_probability": 1.0, "shuffle": False}
    options["keys"] = ("moments", "context")
    batch = next(make_stream(Cached(), **options))
    assert batch["context"][:, 0, 0].tolist() == [0, 1]
    assert batch["moments"][:, 0, 0, 0].tolist() == [1, 0]  # the second says left
    batch = next(make_stream(Cached(), flip_captions="any", **options))
    assert batch["moments"][:, 0, 0, 0].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"^data\.flip_captions: got 'swap', but the latent cache"):
        make_stream(Cached(), flip_captions="swap", **options)


@pytest.mark.parametrize("buckets", [None, ((8, 8),)])
def test_numbers_beyond_the_table_are_refused_with_their_example(buckets):
    source = Shapes(8, num_examples=4)
    classes = [source[k]["class"] for k in range(4)]
    most = int(max(classes))
    sizes = {"batch_size": 4, "image_size": 8, "buckets": buckets, "prefetch": 0}
    next(make_stream(source, limits={"class": most + 1}, **sizes))
    expected = (
        f"data: example {classes.index(most)} has class {most}, but the model has a table of "
        f"{most}. Legal: 0 to {most - 1}."
    )
    with pytest.raises(UserError) as error:
        next(make_stream(source, limits={"class": most}, shuffle=False, **sizes))
    assert str(error.value) == expected
    with pytest.raises(UserError) as error:
        load_examples(source, range(4), image_size=8, limits={"class": most})
    assert str(error.value) == expected
    derived = {"labels": Fixed(np.array([3, -1, 2], np.int32))}
    with pytest.raises(
        UserError, match=r"^data: example 0 has labels -1, but .*\. Legal: 0 to 8\.$"
    ):
        load_examples(source, [0], image_size=8, derive=derived, limits={"labels": 9})


class Fixed:
    """Makes the same entry of every example."""

    reads = ()

    def __init__(self, value):
        self.value = value

    def shape(self, image_size):
        return self.value.shape, self.value.dtype

    def __call__(self, example, rng):
        return self.value
