"""Embeddings of an example's nearest neighbours, for retrieval-augmented models."""

from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError


class Neighbours:
    """Looks up the embeddings of the k nearest other examples, float32 [k, d].

    Blattmann et al. 2022, arXiv 2204.11824: a model that is conditioned on CLIP embeddings of
    images like the one it learns. Embeddings are those of the examples themselves or of another
    database; both are L2-normalised, and near means a large inner product. The search is exact.

    Args:
      embeddings: FILE.npy, [n, d], one row per example of the source, in its order.
      database: FILE.npy, [m, d]; by default `embeddings`, of which an example is not its own
        neighbour.
      k: neighbours.
    """

    reads = ("index",)

    def __init__(self, embeddings: str, database: str | None = None, k: int = 4):
        self._queries = _read("embeddings", embeddings)
        self._database = self._queries if database is None else _read("database", database)
        self._own = database is None
        if self._queries.shape[1] != self._database.shape[1]:
            raise UserError(
                f"neighbours: embeddings have {self._queries.shape[1]} numbers, those of the "
                f"database {self._database.shape[1]}. Legal: as many."
            )
        most = len(self._database) - self._own
        if not 1 <= k <= most:
            raise UserError(f"neighbours k={k}: legal is 1 to {most}.")
        self.k = k

    def shape(self, image_size: int) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of the embeddings."""
        del image_size
        return (self.k, self._database.shape[1]), np.float32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the neighbours of an example, the nearest first."""
        del rng
        index = int(example["index"])
        if index >= len(self._queries):
            raise UserError(
                f"neighbours: example {index}, but {len(self._queries)} embeddings. Legal: one "
                "row per example of the source."
            )
        likeness = self._database @ self._queries[index]
        if self._own:
            likeness[index] = -np.inf
        return self._database[np.argsort(-likeness, kind="stable")[: self.k]]


def _read(field: str, path: str) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"neighbours {field}={path}: no .npy file ({error}).") from error
    if found.ndim != 2 or found.dtype.kind != "f":
        raise UserError(
            f"neighbours {field}={path}: got {found.dtype} {found.shape}. Legal: floats [n, d]."
        )
    norms = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return (found / norms).astype(np.float32)
