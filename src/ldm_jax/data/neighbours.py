"""Embeddings of an example and of its nearest neighbours, for retrieval-augmented models."""

import threading
from typing import Any, cast

import numpy as np

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.data.embeddings import Embeddings
from ldm_jax.data.nearest import SEARCHES


class Neighbours:
    """Looks up the embeddings of the k nearest other examples, float32 [k, d] or [1 + k, d].

    Blattmann et al. 2022, arXiv 2204.11824: a model that is conditioned on CLIP embeddings of
    images like the one it learns. Embeddings are those of the examples themselves or of another
    database; all have length 1, and near means a large inner product. An example's neighbours are
    searched for when it is first seen, and remembered.

    Args:
      embeddings: FILE.npy, [n, d], one row per example of the source, in its order.
      database: FILE.npy, [m, d]; by default `embeddings`, of which an example is not its own
        neighbour.
      k: neighbours.
      among: the neighbours are k of this many nearest, drawn anew every time, in order of nearness;
        by default they are the k nearest.
      own: the example's own row of `embeddings` comes before the neighbours, as the caption's does
        in the published model.
      paired: row i of `database` is of example i too, as images are beside captions: an example is
        not its own neighbour there either.
      search: 'exact', or 'faiss', which is approximate and has to be installed.
    """

    reads = ("index",)

    def __init__(
        self,
        embeddings: str,
        database: str | None = None,
        k: int = 4,
        among: int | None = None,
        own: bool = False,
        paired: bool = False,
        search: str = "exact",
    ):
        check_in("neighbours search", search, SEARCHES)
        self._queries = Embeddings("neighbours embeddings", embeddings)
        self._database = self._queries
        if database is not None:
            self._database = Embeddings("neighbours database", database)
        if self._queries.dim != self._database.dim:
            raise UserError(
                f"neighbours: embeddings have {self._queries.dim} numbers, those of the "
                f"database {self._database.dim}. Legal: as many."
            )
        self._excludes = paired or database is None
        if paired and len(self._database) != len(self._queries):
            raise UserError(
                f"neighbours paired=True: {len(self._queries)} embeddings, {len(self._database)} "
                "in the database. Legal: as many."
            )
        most = len(self._database) - self._excludes
        if not 1 <= k <= most:
            raise UserError(f"neighbours k={k}: legal is 1 to {most}.")
        if among is not None and not k <= among <= most:
            raise UserError(f"neighbours among={among}: legal is k={k} to {most}.")
        self.k, self.own = k, own
        self._among = k if among is None else among
        self._kind, self._search = search, cast(Any, None)
        self._lock = threading.Lock()
        self._known = np.full((len(self._queries), self._among), -1, np.int32)

    def shape(self, image_size: int) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of the embeddings."""
        del image_size
        return (self.own + self.k, self._database.dim), np.float32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the embeddings for an example; `rng` draws where `among` is given."""
        index = _row("neighbours", self._queries, example)
        found = self.nearest(index)
        if self._among > self.k:
            found = found[np.sort(rng.choice(self._among, self.k, replace=False))]
        rows = self._database.rows(found)
        return np.concatenate([self._queries.rows([index]), rows]) if self.own else rows

    def nearest(self, index: int) -> np.ndarray:
        """Returns the numbers of an example's nearest rows in the database, the nearest first."""
        if self._known[index, -1] < 0:  # the last to be written, should a thread look meanwhile
            query = self._queries.rows([index])[0]
            found = self._searcher()(query, self._among + self._excludes)
            if self._excludes:
                found = found[found != index][: self._among]
            self._known[index] = found
        return self._known[index]

    def _searcher(self) -> Any:
        with self._lock:  # an index is built once, when it is needed
            if self._search is None:
                self._search = SEARCHES[self._kind](self._database)
        return self._search


class OwnEmbedding:
    """Looks up the embedding of the example itself, float32 [1, d] of length 1.

    For models that vary an image: they learn to draw what has this embedding.

    Args:
      embeddings: as of `Neighbours`.
    """

    reads = ("index",)

    def __init__(self, embeddings: str):
        self._embeddings = Embeddings("image_embedding embeddings", embeddings)

    def shape(self, image_size: int) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of the embedding."""
        del image_size
        return (1, self._embeddings.dim), np.float32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the embedding of an example."""
        del rng
        return self._embeddings.rows([_row("image_embedding", self._embeddings, example)])


def _row(what: str, embeddings: Embeddings, example: dict[str, Any]) -> int:
    index = int(example["index"])
    if index >= len(embeddings):
        raise UserError(
            f"{what}: example {index}, but {len(embeddings)} embeddings. Legal: one row per "
            "example of the source."
        )
    return index
