"""Whether images show what their captions say, by the angle between CLIP's embeddings."""

import numpy as np

from ldm_jax.core.checks import UserError, check_shape

_SCALE = 100.0  # torchmetrics'; Hessel et al. multiply by 2.5


def clip_scores(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
    """Returns max(100 cos(image, caption), 0) of each pair, [n] float64 in [0, 100].

    Hessel et al. 2021, https://arxiv.org/abs/2104.08718, section 3, with the scale of torchmetrics,
    so a hundredth of it times 2.5 is the paper's CLIP-S. The score of a set is the mean. Differs
    from torchmetrics, which takes the maximum with 0 of the mean: the two are equal unless an image
    and its caption lie more than a right angle apart, which trained towers' hardly do.

    Args:
      images: [n, d] embeddings, of any length but zero.
      captions: [n, d] likewise.

    Raises:
      UserError: for other shapes, values that are not finite, or vectors of zeros.
    """
    images, captions = np.asarray(images, np.float64), np.asarray(captions, np.float64)
    check_shape("clip score: images", images.shape, (None, None))
    check_shape("clip score: captions", captions.shape, images.shape)
    cosines = np.sum(_unit(images, "images") * _unit(captions, "captions"), axis=1)
    return np.maximum(_SCALE * cosines, 0)


def _unit(x: np.ndarray, name: str) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if not np.isfinite(x).all() or not (norms > 0).all():
        raise UserError(
            f"clip score: {name} has embeddings that are zero or not finite. Legal: finite numbers."
        )
    return x / norms
