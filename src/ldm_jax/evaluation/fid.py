"""The Fréchet distance between two sets of images, by mean and covariance of their features.

NumPy in float64: covariances of 2048 features are often singular, and XLA would compute in float32.
"""

import numpy as np

from ldm_jax.core.checks import UserError, check_shape


class FeatureStatistics:
    """Count, mean and covariance of feature vectors, gathered batch by batch in float64.

    Batches are joined as by Chan et al. 1979 (http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773),
    which stays exact where the mean is large beside the deviations.

    Attributes:
      count: number of vectors so far.
      mean: [d] float64; zeros as long as there are none.
    """

    count: int
    mean: np.ndarray

    def __init__(self, dimensions: int):
        self.count = 0
        self.mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))  # sum of (f - mean) (f - mean)^T

    def update(self, features: np.ndarray) -> None:
        """Adds vectors, [n, d] of any real type; n may be 0.

        Raises:
          UserError: for another shape, or values that are not finite.
        """
        features = np.asarray(features)
        check_shape("fid: features", features.shape, (None, len(self.mean)))
        features = features.astype(np.float64)
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features).all(axis=1)).sum())
            raise UserError(
                f"fid: features: {bad} of {len(features)} images have values that are not finite. "
                "Legal: finite numbers."
            )
        if len(features):
            mean = features.mean(axis=0)
            centred = features - mean[None, :]
            self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds the vectors that another has gathered, as on another host.

        Raises:
          UserError: it has another number of features.
        """
        check_shape("fid: mean of the other statistics", other.mean.shape, self.mean.shape)
        if other.count:
            self._join(other.count, other.mean, other._scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Returns [d, d] float64, divided by count - 1.

        Raises:
          UserError: there are fewer than 2 vectors.
        """
        if self.count < 2:
            raise UserError(
                f"fid: images: got {self.count}. Legal: 2 or more; published figures mostly "
                "use 50000."
            )
        return self._scatter / (self.count - 1)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        step = mean - self.mean
        self._scatter += scatter + np.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total


def fid(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Returns the Fréchet distance between two sets of images; see `frechet_distance`."""
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def frechet_distance(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance between two Gaussians, 0 or more.

    Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6 (there d^2):

        |mu1 - mu2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))

    With cov_i = A_i A_i^T the last trace is the sum of the singular values of A1^T A2. That takes
    no root of a number that rounding may have made negative, and singular covariances no offset.

    Args:
      mu1: [d] mean.
      cov1: [d, d] covariance: symmetric, without negative eigenvalues but for rounding.
      mu2: as mu1.
      cov2: as cov1.

    Raises:
      UserError: for shapes that differ, or values that are not finite.
    """
    mu1, cov1, mu2, cov2 = (np.asarray(x, np.float64) for x in (mu1, cov1, mu2, cov2))
    check_shape("fid: mu1", mu1.shape, (None,))
    (d,) = mu1.shape
    for name, array, shape in (
        ("cov1", cov1, (d, d)),
        ("mu2", mu2, (d,)),
        ("cov2", cov2, (d, d)),
    ):
        check_shape(f"fid: {name}", array.shape, shape)
    for name, array in {"mu1": mu1, "cov1": cov1, "mu2": mu2, "cov2": cov2}.items():
        if not np.isfinite(array).all():
            raise UserError(f"fid: {name} has values that are not finite. Legal: finite numbers.")
    overlap = np.linalg.svd(_factor(cov1).T @ _factor(cov2), compute_uv=False).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * overlap
    return max(float(distance), 0.0)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Returns A, [d, rank], with A A^T the covariance, up to eigenvalues that are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)
    return vectors[:, kept] * np.sqrt(values[kept])[None, :]
