"""Whether samples look real and whether they cover what is real, by balls around their features.

A set is taken for the union of balls around its vectors, each as large as the distance to the k-th
nearest other one. Where the features are of another network than the authors' VGG-16, as ADM's
Inception, the numbers compare with each other only.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import Array
from ldm_jax.evaluation.distances import by_blocks, centred, squared_radii
from ldm_jax.parallel.mesh import make_mesh

_NOWHERE = -1.0  # the squared radius of a ball that holds nothing


class PrecisionRecall(NamedTuple):
    """Two shares, 0 to 1.

    Attributes:
      precision: of the samples that lie in the real set's balls.
      recall: of the real images that lie in the samples' balls.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How crowded the real set's balls are, and how many are not empty.

    Attributes:
      density: the mean number of balls that a sample lies in, over k: 1 is expected of samples from
        the real distribution, and there may be more.
      coverage: share of the balls that hold a sample, 0 to 1.
    """

    density: float
    coverage: float


def precision_recall(
    real: np.ndarray, samples: np.ndarray, k: int = 3, mesh: Mesh | None = None
) -> PrecisionRecall:
    """Returns improved precision and recall.

    Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, equations 1 to 3; a ball includes
    its border.

    Args:
      real: [n, d] features.
      samples: [m, d] features; n and m should be equal, 50000 in most figures.
      k: which neighbour a ball reaches to.
      mesh: of the devices that share the work; all of them by default.

    Raises:
      UserError: for sets that do not fit, or have no more than k vectors.
    """
    real, samples = _check(real, samples, k, both=True)
    mesh = make_mesh() if mesh is None else mesh
    radii, sample_radii = squared_radii(real, k, mesh), squared_radii(samples, k, mesh)
    is_real, is_recalled = np.zeros(len(samples), bool), np.zeros(len(real), bool)
    blocks = by_blocks(_find_inside, mesh, (real, radii), (samples, sample_radii), (0.0, _NOWHERE))
    for rows, found in blocks:
        is_real |= found["any_inside"]
        is_recalled[rows] = found["inside"]
    return PrecisionRecall(float(is_real.mean()), float(is_recalled.mean()))


def density_coverage(
    real: np.ndarray, samples: np.ndarray, k: int = 5, mesh: Mesh | None = None
) -> DensityCoverage:
    """Returns density and coverage, which single odd images change less than precision and recall.

    Naeem et al. 2020, https://arxiv.org/abs/2002.09797, equations 5 and 7; a ball does not include
    its border, as in the authors' code.

    Args:
      real: [n, d] features.
      samples: [m, d] features.
      k: which neighbour a ball reaches to.
      mesh: of the devices that share the work; all of them by default.

    Raises:
      UserError: for sets that do not fit, or fewer real vectors than k + 1.
    """
    real, samples = _check(real, samples, k, both=False)
    mesh = make_mesh() if mesh is None else mesh
    radii = squared_radii(real, k, mesh)
    counts = np.zeros(len(real), np.int64)
    for rows, found in by_blocks(_count_inside, mesh, (real, radii), (samples,), (0.0, _NOWHERE)):
        counts[rows] = found["count"]
    return DensityCoverage(
        float(counts.sum() / (k * len(samples))),
        float(np.mean(counts > 0)),
    )


def _find_inside(
    distances: Array, rows: tuple[Array, ...], columns: tuple[Array, ...]
) -> dict[str, Array]:
    """Returns which columns lie in a ball of the rows, and which rows in one of the columns."""
    return {
        "any_inside": jnp.any(distances <= rows[0][:, None], axis=0),
        "inside": jnp.any(distances <= columns[0][None, :], axis=1),
    }


def _count_inside(
    distances: Array, rows: tuple[Array, ...], columns: tuple[Array, ...]
) -> dict[str, Array]:
    """Returns how many columns lie in each row's ball."""
    del columns
    return {"count": jnp.sum(distances < rows[0][:, None], axis=1, dtype=jnp.int32)}


def _check(
    real: np.ndarray, samples: np.ndarray, k: int, both: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sets as distances are taken of them."""
    real, samples = np.asarray(real), np.asarray(samples)
    check_shape("precision and recall: real", real.shape, (None, None))
    check_shape("precision and recall: samples", samples.shape, (None, real.shape[1]))
    least = min(len(real), len(samples)) if both else len(real)
    if not 1 <= k < least:
        raise UserError(
            f"precision and recall: k={k} for sets of {least} images. Legal: 1 to {least - 1}, and "
            "more images than k."
        )
    if not len(samples):
        raise UserError("precision and recall: samples: got none. Legal: 1 or more.")
    for name, x in (("real", real), ("samples", samples)):
        if not np.isfinite(x).all():
            raise UserError(
                f"precision and recall: {name} has values that are not finite. Legal: finite "
                "numbers."
            )
    return centred(real, samples)
