"""Batches by number: the rows that one process holds of each global batch."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data.buckets import BucketOrder
from ldm_jax.data.source import Source
from ldm_jax.data.split import files_of

_TRANSFORMS = 2  # beside the two purposes of random numbers in `buckets`

# Of an example: its entries in a batch, and its number.
Prepare = Callable[
    [dict[str, Any], np.random.Generator, tuple[int, int]], tuple[dict[str, Any], int]
]


class Rows(NamedTuple):
    """Some rows of a batch, and the numbers of their examples."""

    batch: dict[str, np.ndarray]
    indices: np.ndarray


class Numbered:
    """A source whose examples know their number, `index`: their own, or that they are read by.

    A file with a number beyond its limit, such as that of a class, is quarantined like a broken
    one. Of other sources it is left to whoever looks at the batch.

    Args:
      source: of examples.
      limits: exclusive maxima of entries of the source.
    """

    def __init__(self, source: Source, limits: Mapping[str, int] = {}):
        self._source, self._files, self._limits = source, files_of(source), limits

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        while True:
            example = {"index": index, **self._source[index]}
            found = beyond(example, self._limits)
            if self._files is None or found is None:
                return example
            # Ends: the next reading stands something else in, or too many are set aside.
            self._files.set_aside({self._files.name(example["index"]): found[0]})

    def __repr__(self) -> str:
        return repr(self._source)


def beyond(example: Mapping[str, Any], limits: Mapping[str, int]) -> tuple[str, int] | None:
    """Returns which number of an example is not below its limit, and that; None if all are."""
    for name, limit in limits.items():
        values = np.asarray(example.get(name, 0))
        for value in (values.min(), values.max()):
            if not 0 <= value < limit:
                return f"{name} {value}, but the model has a table of {limit}", limit
    return None


class LocalBatches:
    """Random access to one process's rows, a contiguous block of each global batch."""

    def __init__(self, examples: Any, batch_size: int, process_index: int, process_count: int):
        self.batch_size = batch_size
        self.rows = batch_size // process_count
        self._examples = examples
        self._offset = process_index * self.rows

    def __len__(self) -> int:
        # `repeat()` has length maxsize; the last, incomplete global batch is dropped.
        return len(self._examples) // self.batch_size

    def __getitem__(self, index: int) -> Rows:
        start = index * self.batch_size + self._offset
        return _stack_numbered([self._examples[start + row] for row in range(self.rows)])

    def __repr__(self) -> str:
        return f"LocalBatches({self.batch_size}, {self._offset}, {self.rows})"


class BucketBatches:
    """As `LocalBatches`, of a batch whose examples share a bucket."""

    def __init__(
        self,
        examples: Numbered,
        order: BucketOrder,
        buckets: Sequence[tuple[int, int]],
        prepare: Prepare,
        seed: int,
        rows: tuple[int, int, int],
        num_epochs: int | None,
    ):
        self.batch_size, self._offset, self.rows = rows
        self._examples, self._order, self._buckets = examples, order, buckets
        self._prepare, self._seed, self._num_epochs = prepare, seed, num_epochs

    def __len__(self) -> int:
        if self._num_epochs is None:
            return sys.maxsize // self.batch_size
        return self._order.batches_until(self._num_epochs)

    def __getitem__(self, index: int) -> Rows:
        bucket, draws = self._order(index)
        size = self._buckets[bucket]
        mine = draws[self._offset : self._offset + self.rows]
        return _stack_numbered(
            [self._prepare(self._examples[k], self._rng(k, epoch), size) for k, epoch in mine]
        )

    def _rng(self, index: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, _TRANSFORMS, epoch, index))

    def __repr__(self) -> str:
        return f"BucketBatches({self.batch_size}, {self._offset}, {self.rows})"


def _stack_numbered(prepared: list[tuple[dict[str, Any], int]]) -> Rows:
    examples, indices = zip(*prepared, strict=True)
    return Rows(stack(list(examples)), np.asarray(indices, np.int64))


def stack(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns one array per entry, a row for each example; numbers of classes as int32."""
    batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
    for key in ("class", "segmentation"):
        if key in batch:
            batch[key] = batch[key].astype(np.int32)
    return batch
