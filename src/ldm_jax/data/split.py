"""A source divided in two: what is trained on, and what is held out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.buckets import example_size
from ldm_jax.data.file_source import FileSource
from ldm_jax.data.source import Source

_SEED = 0  # not the run's: all runs on the same data hold out the same examples


class Subset:
    """Some examples of a source, as a source.

    Attributes:
      class_names: as in the whole.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source, self._indices = source, np.asarray(indices)
        self.class_names = source.class_names

    def __repr__(self) -> str:
        first = ", ".join(map(str, self._indices[:3]))
        return f"Subset({self._source!r}, {len(self)} examples: {first}, …)"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not isinstance(self._source, FileSource):
            whole = int(self._indices[index])
            # Its number in the whole source, by which embeddings in a file are found.
            return {"index": whole, **self._source[whole]}
        # What stands in for a broken file is of this subset too: held-out files stay held out.
        count = len(self)
        following = (int(self._indices[(index + step) % count]) for step in range(count))
        chosen, example = self._source.first_readable(following)
        return {"index": chosen, **example}

    def size(self, index: int) -> tuple[int, int]:
        """Returns (height, width) of an example's image."""
        return example_size(self._source, int(self._indices[index]))

    @property
    def quarantine(self) -> Mapping[str, str]:
        """The files of the whole source that could not be read."""
        return getattr(self._source, "quarantine", {})


def example_name(source: Source, index: int) -> str | None:
    """Returns where example `index` of the whole source comes from, or None if it is no file."""
    files = files_of(source)
    return None if files is None else files.name(index)


def files_of(source: Source) -> FileSource | None:
    """Returns the source of files that this is, or is a part of, or None if it is neither."""
    whole = source._source if isinstance(source, Subset) else source
    return whole if isinstance(whole, FileSource) else None


def split(source: Source, holdout: int) -> tuple[Source, Source]:
    """Returns (what is left, `holdout` examples), each in the source's order.

    Which are held out depends on the number of examples and on `holdout` alone, and a larger
    `holdout` holds out the same and more.

    Raises:
      UserError: nothing would be left.
    """
    if not 0 < holdout < len(source):
        raise UserError(
            f"config.data.holdout={holdout}, of {len(source)} examples. Legal: 0 to "
            f"{len(source) - 1}."
        )
    # A bit generator's raw stream is fixed for ever; NumPy's shuffles are not.
    order = np.argsort(np.random.PCG64(_SEED).random_raw(len(source)), kind="stable")
    return Subset(source, np.sort(order[holdout:])), Subset(source, np.sort(order[:holdout]))
