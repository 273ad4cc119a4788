"""The kernel distance of two sets of images: KID, where the features are Inception's.

NumPy in float64: the estimate is a small difference of large means, and may be below zero.
"""

from typing import NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError, check_shape

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's
_DEGREE = 3


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets; published figures often show 1000 times the mean.

    Attributes:
      mean: of the unbiased estimates, so below zero about as often as above it for equal sets.
      std: of the estimates about their mean (divided by their number). That of the mean itself is
        smaller, but subsets of one set overlap, so by less than the root of their number.
    """

    mean: float
    std: float


def kid(
    first: np.ndarray,
    second: np.ndarray,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Returns the mean over random subsets of the squared distance `squared_mmd`.

    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 4: unlike the Fréchet distance
    it is unbiased, so that sets of any size compare. The subsets are drawn as torch-fidelity draws
    them, for each one rows of the first set, then of the second, without replacement.

    Args:
      first: [n, d] features of any real type.
      second: [m, d] likewise.
      subsets: how many.
      size: rows of each subset.
      seed: of the draws.

    Raises:
      UserError: for sets that do not fit, or are smaller than a subset.
    """
    first, second = _float64(first, "first"), _float64(second, "second")
    check_shape("kid: second", second.shape, (None, first.shape[1]))
    most = min(len(first), len(second))
    if subsets < 1:
        raise UserError(f"kid.subsets: got {subsets}. Legal: 1 or more.")
    if not 2 <= size <= most:
        raise UserError(f"kid.size: got {size} for sets of {most} images. Legal: 2 to {most}.")
    # The legacy generator is frozen: its draws stay the same in every version of NumPy.
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        x = first[rng.choice(len(first), size, replace=False)]
        y = second[rng.choice(len(second), size, replace=False)]
        found.append(squared_mmd(x, y))
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased estimate of the squared maximum mean discrepancy of two sets.

    Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, lemma 6, equation 3, with the
    kernel k(a, b) = (a . b / d + 1)^3:

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    Args:
      x: [n, d] float64, n at least 2.
      y: [m, d] likewise.
    """
    return float(_mean_apart(x) + _mean_apart(y) - 2 * _kernel(x, y).mean())


def _mean_apart(x: np.ndarray) -> float:
    """Returns the mean of the kernel over pairs of different rows."""
    kernel = _kernel(x, x)
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** _DEGREE


def _float64(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, np.float64)
    check_shape(f"kid: {name}", features.shape, (None, None))
    if not np.isfinite(features).all():
        raise UserError(f"kid: {name} has values that are not finite. Legal: finite numbers.")
    return features
