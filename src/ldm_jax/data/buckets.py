"""Aspect-ratio buckets: which images share a size, and the order in which they come as batches."""

import functools
import math
import numbers
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError, shortened
from ldm_jax.data.source import Source

_CHUNK = 1024  # examples whose sizes one thread reads at a time
_BATCHES, _EXAMPLES = range(2)  # what is put in order by chance


def bucket_sizes(area: int, multiple: int, max_ratio: float = 2.0) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of about one area, from the widest to the tallest.

    For every width that is a multiple, the height that comes nearest to the area; one for each
    ratio of sides, symmetric in height and width. `bucket_sizes(64**2, 16, 2)` is
    ((48, 96), (48, 80), (64, 64), (80, 48), (96, 48)).

    Args:
      area: pixels of an image, usually the square of `image_size`.
      multiple: what heights and widths are multiples of, see `ldm-jax info`.
      max_ratio: the longer side is at most so many times the shorter one.

    Raises:
      UserError: not even a square fits.
    """
    if multiple < 1 or area < multiple**2 or not 1 <= max_ratio < math.inf:
        raise UserError(
            f"bucket_sizes: got area={area}, multiple={multiple}, max_ratio={max_ratio}. Legal: "
            "multiple >= 1, area >= multiple^2, max_ratio >= 1."
        )
    found: dict[Fraction, tuple[int, int]] = {}
    longest = int(math.sqrt(area * max_ratio)) // multiple + 1
    for steps in range(1, longest + 1):
        long = steps * multiple
        short = max(1, round(area / long / multiple)) * multiple
        if short <= long <= max_ratio * short:
            found.setdefault(Fraction(short, long), (short, long))
    wide = list(found.values())
    shapes = {*wide, *((long, short) for short, long in wide)}
    return tuple(sorted(shapes, key=lambda shape: shape[0] / shape[1]))


def check_buckets(buckets: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Returns the buckets as tuples.

    Raises:
      UserError: there is none, or an illegal one, or two have one aspect ratio.
    """
    if not buckets:
        raise UserError("data.buckets: got none. Legal: one (height, width) or more, or no field.")
    if not isinstance(buckets, tuple | list) or not all(map(_is_shape, buckets)):
        raise UserError(
            f"data.buckets: got {shortened(repr(buckets))}. Legal: pairs of whole numbers, "
            "(height, width), such as ((48, 80), (64, 64))."
        )
    seen: dict[Fraction, tuple[int, int]] = {}
    for height, width in buckets:
        if height < 1 or width < 1:
            raise UserError(f"data.buckets: got {(height, width)}. Legal: 1 pixel or more.")
        ratio = Fraction(height, width)
        if ratio in seen:
            raise UserError(
                f"data.buckets: {seen[ratio]} and {(height, width)} have one aspect ratio, so the "
                "second would stay empty. Legal: distinct ratios."
            )
        seen[ratio] = (height, width)
    return tuple(seen.values())


def _is_shape(bucket: Any) -> bool:
    if not isinstance(bucket, tuple | list) or len(bucket) != 2:
        return False
    return all(isinstance(x, numbers.Integral) and not isinstance(x, bool) for x in bucket)


def nearest_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> int:
    """Returns the number of the bucket whose aspect ratio is nearest, by its logarithm."""
    return int(np.argmin([abs(math.log(height * w / (width * h))) for h, w in buckets]))


def example_size(source: Source, index: int) -> tuple[int, int]:
    """Returns (height, width) of an example's image, upright.

    From `source.size(index)` where the source has it, and otherwise by decoding the image, which
    costs as much as reading it for training.
    """
    if hasattr(source, "size"):
        height, width = source.size(index)
    else:
        height, width = source[index]["image"].shape[:2]
    return int(height), int(width)


def assign_buckets(
    source: Source, buckets: Sequence[tuple[int, int]], num_threads: int = 8
) -> np.ndarray:
    """Returns the number of every example's bucket, int32 [n], after reading all sizes once."""

    def assigned(start: int) -> list[int]:
        stop = min(start + _CHUNK, len(source))
        return [nearest_bucket(*example_size(source, k), buckets) for k in range(start, stop)]

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        parts = list(pool.map(assigned, range(0, len(source), _CHUNK)))
    return np.array([number for part in parts for number in part], np.int32)


class Draw(NamedTuple):
    """An example's number, and in which pass over the data it is drawn."""

    example: int
    epoch: int


class BucketOrder:
    """Batches of one bucket each, by number: what is in batch k follows from the seed alone.

    In every epoch each bucket's examples are put in a new order and appended to what the bucket
    has left over; whole batches are taken, and the epoch's batches of all buckets are put in a
    random order. So every example is drawn once an epoch, nothing is dropped, and an incomplete
    batch waits for the next epoch (of a bucket with fewer examples than a batch, for several). The
    first `epochs` epochs have sum_b floor(epochs n_b / batch_size) batches. A batch that is begun
    in one epoch and filled in a later one may hold an example twice, or more often if its bucket
    has fewer examples than a batch.

    Args:
      assigned: [n], each example's bucket.
      num_buckets: how many there are; some may be empty.
      batch_size: examples in a batch.
      seed: of all orders.
      shuffle: False keeps the source's order within a bucket, and takes a batch when it is full.

    Attributes:
      counts: of the examples in each bucket.
    """

    def __init__(
        self, assigned: np.ndarray, num_buckets: int, batch_size: int, seed: int, shuffle: bool
    ):
        self._members = [np.flatnonzero(assigned == b) for b in range(num_buckets)]
        self.counts = [len(members) for members in self._members]
        self._batch_size, self._seed, self._shuffle = batch_size, seed, shuffle
        # Threads ask for neighbouring batches, which are of one epoch or two.
        self._order = functools.lru_cache(4 * num_buckets)(self._make_order)
        self._epoch = functools.lru_cache(4)(self._make_epoch)

    def batches_until(self, epoch: int) -> int:
        """Returns the number of whole batches in the first `epoch` epochs."""
        return sum(epoch * count // self._batch_size for count in self.counts)

    def __call__(self, number: int) -> tuple[int, list[Draw]]:
        """Returns the bucket of a batch, and what it holds."""
        epoch = number * self._batch_size // sum(self.counts)  # or as much later as was left over
        while self.batches_until(epoch + 1) <= number:
            epoch += 1
        bucket, place = self._epoch(epoch)[number - self.batches_until(epoch)]
        start, count = int(place) * self._batch_size, self.counts[bucket]
        positions = range(start, start + self._batch_size)
        draws = [(position // count, position % count) for position in positions]
        return int(bucket), [Draw(int(self._order(e, int(bucket))[k]), e) for e, k in draws]

    def _make_order(self, epoch: int, bucket: int) -> np.ndarray:
        members = self._members[bucket]
        if not self._shuffle:
            return members
        return members[_permutation(len(members), (self._seed, _EXAMPLES, epoch, bucket))]

    def _make_epoch(self, epoch: int) -> np.ndarray:
        """Returns the batches that become whole in an epoch, [n, 2]: bucket, and which of its."""
        size = self._batch_size
        whole = [
            (bucket, place)
            for bucket, count in enumerate(self.counts)
            for place in range(epoch * count // size, (epoch + 1) * count // size)
        ]
        if self._shuffle:
            order = _permutation(len(whole), (self._seed, _BATCHES, epoch))
        else:
            last = [self._members[b][((k + 1) * size - 1) % self.counts[b]] for b, k in whole]
            order = np.argsort(last, kind="stable")
        return np.array(whole, np.int64).reshape(-1, 2)[order]


def _permutation(count: int, key: tuple[int, ...]) -> np.ndarray:
    # A bit generator's raw stream is fixed for ever; NumPy's shuffles are not.
    return np.argsort(np.random.PCG64(key).random_raw(count), kind="stable")
