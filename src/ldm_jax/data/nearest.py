"""Searches for the rows of a database that are most like a vector."""

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.embeddings import Embeddings


class ExactSearch:
    """Compares with every row; a query takes n d multiplications."""

    def __init__(self, database: Embeddings):
        self._database = database

    def __call__(self, query: np.ndarray, count: int) -> np.ndarray:
        """Returns the numbers of the nearest rows, int64 [count], the nearest first.

        Args:
          query: float32 [d].
          count: at most the number of rows. Of equally near ones, the first are taken.
        """
        likeness, numbers = np.empty(0, np.float32), np.empty(0, np.int64)
        for start, piece in self._database.likeness(query):
            # All that are at least as near as the last one kept: ties are settled below.
            least = np.partition(piece, -count)[-count] if len(piece) > count else -np.inf
            kept = np.flatnonzero(piece >= least)
            likeness = np.concatenate([likeness, piece[kept]])
            numbers = np.concatenate([numbers, start + kept])
            order = np.lexsort((numbers, -likeness))[:count]
            likeness, numbers = likeness[order], numbers[order]
        return numbers


class FaissSearch:
    """Compares with the rows of the nearest clusters only, for databases of millions.

    Johnson et al. 2017, arXiv 1702.08734: sqrt(n) clusters, of which one in twenty is searched, as
    in the reference's tree (scripts/train_searcher.py); what it misses is less near. The database
    is in memory. The same file gives the same neighbours.
    """

    def __init__(self, database: Embeddings):
        try:
            import faiss
        except ImportError as error:
            raise UserError(
                "neighbours search='faiss': faiss is not installed. Legal: search='exact', or pip "
                "install faiss-cpu."
            ) from error
        self._faiss = faiss
        # k-means wants 39 points a cluster, and takes 256 at most.
        self._clusters = max(1, min(int(len(database) ** 0.5), len(database) // 39))
        sample = np.linspace(0, len(database) - 1, min(256 * self._clusters, len(database)))
        self._index = faiss.index_factory(
            database.dim, f"IVF{self._clusters},Flat", faiss.METRIC_INNER_PRODUCT
        )
        self._index.train(database.rows(sample.astype(np.int64)))
        for start in range(0, len(database), 65536):
            self._index.add(database.rows(slice(start, start + 65536)))

    def __call__(self, query: np.ndarray, count: int) -> np.ndarray:
        """Returns the numbers of near rows, int64 [count], the nearest first; see `ExactSearch`."""
        searched = max(1, self._clusters // 20)
        while True:
            parameters = self._faiss.SearchParametersIVF(nprobe=searched)
            _, found = self._index.search(query[None, :], count, params=parameters)
            if found[0, -1] >= 0 or searched >= self._clusters:
                return np.asarray(found[0])
            searched *= 2  # the clusters held fewer rows than are asked for


SEARCHES = {"exact": ExactSearch, "faiss": FaissSearch}
