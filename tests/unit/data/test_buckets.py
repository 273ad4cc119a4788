import collections
import json

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.buckets import (
    BucketOrder,
    assign_buckets,
    bucket_sizes,
    check_buckets,
    example_size,
    nearest_bucket,
)
from ldm_jax.data.layout import LayoutTokens
from ldm_jax.data.masks import RandomMask
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.split import split

BUCKETS = ((8, 16), (12, 12), (16, 8))
SHAPES = [(20, 40), (30, 30), (41, 20), (18, 40), (30, 32)]  # of examples, over and over
IN_BUCKET = [0, 1, 2, 0, 1]


class Pictures:
    """Images of several shapes: example i is grey level i, its left half brighter by 100."""

    class_names = None

    def __init__(self, count):
        self.count, self.decoded = count, 0

    def __repr__(self):
        return f"{type(self).__name__}({self.count})"

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.decoded += 1
        image = np.full((*SHAPES[index % 5], 1), index, np.uint8)
        image[:, : image.shape[1] // 2] += 100
        left = (image[:, :, 0] >= 100).astype(np.uint8)
        boxes = np.array([[0, 0, 0.5, 1, 3]], np.float32)
        whole = {"image": image, "class": index, "segmentation": left, "mask": left}
        return {**whole, "boxes": boxes, "text": "left" if index % 2 else "a cat"}


class Sized(Pictures):
    def size(self, index):
        return SHAPES[index % 5]


OPTIONS = {"batch_size": 4, "image_size": 12, "channels": 1, "seed": 7, "buckets": BUCKETS}
OPTIONS |= {"random_crop": True, "flip_probability": 0.5}


def take(stream, count):
    return [next(stream) for _ in range(count)]


def test_sizes_of_one_area():
    assert bucket_sizes(64**2, 16, 2) == ((48, 96), (48, 80), (64, 64), (80, 48), (96, 48))
    assert bucket_sizes(64**2, 64, 3.0) == ((64, 128), (64, 64), (128, 64))
    for height, width in bucket_sizes(512**2, 64, 2.5):
        assert height % 64 == width % 64 == 0
        assert max(height, width) <= 2.5 * min(height, width)
        assert abs(height * width / 512**2 - 1) < 0.15
    check_buckets(bucket_sizes(256**2, 8, 4.0))
    with pytest.raises(UserError, match=r"bucket_sizes: got area=100, multiple=16, max_ratio=2.0"):
        bucket_sizes(100, 16)


@pytest.mark.parametrize(
    "buckets",
    [((16,),), ((16, 16, 16),), 16, "x", ((16.5, 8),), (16, 16), ((True, 2),), ("ab",), {1: 2}],
)
def test_buckets_are_pairs_of_whole_numbers(buckets):
    with pytest.raises(UserError) as error:
        check_buckets(buckets)
    assert str(error.value) == (
        f"data.buckets: got {buckets!r}. Legal: pairs of whole numbers, (height, width), such as "
        "((48, 80), (64, 64))."
    )


def test_buckets_may_be_lists():
    assert check_buckets([[8, 16], [12, 12]]) == ((8, 16), (12, 12))


def test_the_nearest_ratio_counts():
    """|log| of 3:4 against 1:2 and 1:1: sqrt(1/2) = 0.707 is the border."""
    assert [nearest_bucket(*shape, BUCKETS) for shape in SHAPES] == IN_BUCKET
    assert [nearest_bucket(h, 1000, BUCKETS) for h in (1, 706, 708)] == [0, 0, 1]


def test_sizes_come_from_the_source_or_from_its_images():
    plain, sized = Pictures(12), Sized(12)
    expected = [IN_BUCKET[k % 5] for k in range(12)]
    for source, decoded in ((plain, 12), (sized, 0)):
        assert assign_buckets(source, BUCKETS, 2).tolist() == expected
        assert source.decoded == decoded
    train, held_out = split(sized, 5)
    for part in (train, held_out):
        found = [example_size(part, k) for k in range(len(part))]
        assert found == [SHAPES[part[k]["class"] % 5] for k in range(len(part))]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_is_drawn_once_an_epoch_and_none_is_dropped(shuffle):
    assigned = np.array([0] * 11 + [1] * 3 + [3] * 30)  # one is empty, one smaller than a batch
    order = BucketOrder(assigned, 4, batch_size=8, seed=5, shuffle=shuffle)
    assert order.counts == [11, 3, 0, 30]
    # floor(8 * 11 / 8) + floor(8 * 3 / 8) + floor(8 * 30 / 8)
    assert order.batches_until(8) == 11 + 3 + 30
    drawn = collections.Counter()
    for number in range(44):
        bucket, draws = order(number)
        assert {assigned[draw.example] for draw in draws} == {bucket}
        assert len(draws) == 8
        drawn.update(draws)
    assert drawn == collections.Counter({(k, e): 1 for k in range(44) for e in range(8)})
    again = BucketOrder(assigned, 4, batch_size=8, seed=5, shuffle=shuffle)
    assert [again(k) for k in (43, 0, 17)] == [order(k) for k in (43, 0, 17)]


def test_a_batch_of_two_epochs_may_hold_an_example_twice():
    order = BucketOrder(np.zeros(3, int), 1, batch_size=4, seed=0, shuffle=True)
    _, draws = order(0)
    assert [draw.epoch for draw in draws] == [0, 0, 0, 1]
    assert len({draw.example for draw in draws}) == 3


def test_orders_follow_from_the_seed_and_differ_between_epochs():
    assigned = np.arange(32) % 2
    epochs = {}
    for seed in (1, 2):
        order = BucketOrder(assigned, 2, 4, seed, True)
        assert order.batches_until(3) == 24
        for epoch in range(3):
            batches = [order(8 * epoch + k) for k in range(8)]
            epochs[seed, epoch] = json.dumps(batches)
            assert sorted(b for b, _ in batches) == [0] * 4 + [1] * 4
    assert len(set(epochs.values())) == 6


def test_without_shuffling_a_batch_comes_when_it_is_full():
    order = BucketOrder(np.array([0, 1, 1, 0, 0]), 2, 2, 0, False)
    found = [(b, [d.example for d in draws]) for b, draws in map(order, range(5))]
    assert found == [(1, [1, 2]), (0, [0, 3]), (0, [4, 0]), (1, [1, 2]), (0, [3, 4])]


def test_batches_have_the_size_of_their_bucket():
    stream = make_stream(Sized(40), **OPTIONS)
    sizes = set()
    for batch in take(stream, 20):
        bucket = {IN_BUCKET[k % 5] for k in batch["class"]}
        assert batch["image"].shape == (4, *BUCKETS[bucket.pop()], 1)
        assert not bucket
        sizes.add(batch["image"].shape)
    assert len(sizes) == 3
    assert stream.steps_per_epoch == 10


def test_maps_masks_and_boxes_follow_the_image_into_its_bucket():
    keys = ("image", "segmentation", "mask", "boxes", "class", "layout", "holes")
    derive = {"layout": LayoutTokens(2), "holes": RandomMask()}
    stream = make_stream(Sized(40), **OPTIONS, keys=keys, derive=derive)
    flips = set()
    for batch in take(stream, 20):
        assert batch["holes"].shape == batch["mask"].shape == batch["image"].shape[:3]
        assert (batch["mask"].dtype, batch["segmentation"].dtype) == (np.uint8, np.int32)
        for k in range(4):
            bright = batch["image"][k, 0, :, 0] >= 90
            # Bicubic smears the edge over a pixel or two, nearest neighbours do not.
            assert np.sum(bright != batch["mask"][k, 0]) <= 2
            np.testing.assert_array_equal(batch["mask"][k], batch["segmentation"][k])
            x0, y0, x1, y1, label = batch["boxes"][k, 0]
            width = batch["mask"].shape[2]
            columns = np.flatnonzero(batch["mask"][k, 0])
            assert abs(x0 * width - columns[0]) <= 0.51
            assert abs(x1 * width - columns[-1] - 1) <= 0.51
            assert (y0, y1, label) == (0, 1, 3)
            flips.add(bool(bright[-1]))
    assert flips == {True, False}


def test_the_crop_covers_as_much_as_the_bucket_s_shape_allows():
    class Wide:
        class_names = None

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": np.arange(100, dtype=np.uint8)[None, :, None].repeat(20, 0)}

    options = {"batch_size": 1, "image_size": 8, "channels": 1}
    batch = next(make_stream(Wide(), **options, buckets=((20, 40),)))
    np.testing.assert_array_equal(batch["image"][0, 3, :, 0], np.arange(30, 70))


def test_resuming_and_processes_give_the_same_batches():
    whole = take(make_stream(Sized(23), **OPTIONS), 17)
    stream = make_stream(Pictures(23), **OPTIONS)
    take(stream, 9)
    state = json.loads(json.dumps(stream.get_state()))
    parts = [
        make_stream(Sized(23), **OPTIONS, process_index=p, process_count=2, prefetch=3)
        for p in range(2)
    ]
    for part in parts:
        part.set_state(state)
    for expected in whole[9:]:
        rows = [next(part) for part in parts]
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([r[key] for r in rows]), value)


def test_finite_epochs():
    options = {**OPTIONS, "batch_size": 5}
    batches = list(make_stream(Sized(20), **options, num_epochs=2))
    # 8, 8 and 4 examples, twice: 16 // 5 + 16 // 5 + 8 // 5
    assert len(batches) == 7
    assert len(list(make_stream(Shapes(16, num_examples=9), **options, num_epochs=1))) == 1


def test_another_distribution_of_sizes_cannot_be_resumed():
    state = make_stream(Sized(20), **OPTIONS).get_state()
    assert state["bucket_counts"] == [8, 8, 4]
    other = make_stream(Sized(20), **{**OPTIONS, "buckets": BUCKETS[:2]})
    with pytest.raises(UserError, match=r"cannot resume, bucket_counts is \[8, 12\] and was"):
        other.set_state(state)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ((), r"data.buckets: got none. Legal: one \(height, width\) or more"),
        (((8, 0),), r"data.buckets: got \(8, 0\). Legal: 1 pixel or more"),
        (((8, 8), (16, 16)), r"\(8, 8\) and \(16, 16\) have one aspect ratio, so the second"),
        (((8, 16), (8, 16)), r"\(8, 16\) and \(8, 16\) have one aspect ratio"),
    ],
)
def test_errors(buckets, message):
    with pytest.raises(UserError, match=message):
        make_stream(Sized(20), **{**OPTIONS, "buckets": buckets})


def test_latents_have_one_size():
    class Moments(Sized):
        def __getitem__(self, index):
            return {"moments": np.zeros((1, 2, 2, 4), np.float32)}

    with pytest.raises(UserError, match=r"data.buckets: Moments.* holds latents of one size"):
        make_stream(Moments(20), batch_size=2, image_size=8, buckets=BUCKETS)
