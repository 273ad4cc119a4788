"""The nearest rows of a database, exactly, and how near others are."""

from collections.abc import Iterable

import numpy as np


def nearest_rows(
    queries: np.ndarray,
    blocks: Iterable[np.ndarray],
    count: int,
    own: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Euclidean distances [q, count] to the nearest rows, and their numbers, int64.

    The nearest come first; of equally near ones, those that come first. In float64: the distances
    of uint8 images are exact, also the small ones that memorisation is about.

    Args:
      queries: [v, q, d]; each of q has v views, such as an image and its mirror image, the nearest
        of which counts.
      blocks: the database in order, [b, d] each, of `count` rows at least in all.
      count: of neighbours.
      own: [q], a number for each query that is not counted, as it is the query itself; -1 for none.
    """
    views = np.asarray(queries, np.float64)
    squares = np.sum(views**2, axis=-1)
    best = np.empty((views.shape[1], 0))
    numbers = np.empty((views.shape[1], 0), np.int64)
    start = 0
    for block in blocks:
        rows = np.asarray(block, np.float64)
        products = views @ rows.T
        distances = squares[..., None] + np.sum(rows**2, axis=-1)[None, None, :] - 2 * products
        here: np.ndarray = start + np.arange(len(rows))
        found = distances.min(axis=0)
        if own is not None:
            found[np.asarray(own)[:, None] == here[None, :]] = np.inf
        best = np.concatenate([best, found], axis=1)
        numbers = np.concatenate([numbers, np.broadcast_to(here[None], found.shape)], axis=1)
        order = np.lexsort((numbers, best), axis=-1)[:, :count]
        best = np.take_along_axis(best, order, axis=1)
        numbers = np.take_along_axis(numbers, order, axis=1)
        start += len(rows)
    return np.sqrt(np.maximum(best, 0)), numbers


def share_nearer(distance: float, others: np.ndarray) -> float:
    """Returns which share of `others` [n] is smaller than a distance, in [0, 1]."""
    return float(np.mean(np.asarray(others) < distance))
