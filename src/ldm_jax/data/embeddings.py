"""Embeddings in a .npy file, as vectors of length 1."""

from collections.abc import Iterator, Sequence

import numpy as np

from ldm_jax.core.checks import UserError

_BLOCK = 8192  # rows that are in memory at once


class Embeddings:
    """Rows of a .npy file, float32 [d] of length 1; the file stays on disk, its norms in memory.

    Args:
      what: the setting that names the file, for messages.
      path: FILE.npy, [n, d] of float16, 32 or 64.

    Attributes:
      dim: d.
    """

    def __init__(self, what: str, path: str):
        try:
            self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{what}={path}: no .npy file ({error}).") from error
        if self._rows.ndim != 2 or self._rows.dtype.kind != "f" or not self._rows.size:
            raise UserError(
                f"{what}={path}: got {self._rows.dtype} {self._rows.shape}. Legal: floats [n, d]."
            )
        self.dim = self._rows.shape[1]
        norms = [np.linalg.norm(rows, axis=1) for _, rows in self._blocks()]
        self._norms = np.concatenate(norms)
        bad = np.flatnonzero(~np.isfinite(self._norms) | (self._norms == 0))
        if bad.size:
            raise UserError(
                f"{what}={path}: row {bad[0]} has length {self._norms[bad[0]]}. Legal: rows of "
                "finite numbers, not all zero."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, numbers: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """Returns some rows, float32 [m, d] of length 1."""
        found = self._rows[numbers].astype(np.float32)
        return np.asarray(found / self._norms[numbers][:, None])

    def likeness(self, query: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the inner products of a vector [d] with all rows: the first's number, float32 [m].

        Every piece is of some thousand rows, so that a file need not fit into memory.
        """
        for start, rows in self._blocks():
            yield start, rows @ query / self._norms[start : start + len(rows)]

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self), _BLOCK):
            yield start, np.asarray(self._rows[start : start + _BLOCK], np.float32)
