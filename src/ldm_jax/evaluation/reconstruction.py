"""How near a reconstruction is to its image: PSNR and SSIM, per image.

Both take images on the scale that they are saved in, 0 to 255, so that a score is that of the
pictures one looks at. LPIPS is `models.lpips`, and rFID compares features, see `fid`.
"""

import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array

_PEAK = 255.0
# Wang et al. 2004, section III: an 11 x 11 Gaussian window of 1.5 pixels.
SSIM_WINDOW = 11  # pixels
_SIGMA = 1.5
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_MAX_PSNR = 100.0


def psnr(x: Array, y: Array) -> Array:
    """Returns 10 log10(255² / mean(x - y)²) of each pair, [b] in dB; 100 for equal images.

    Args:
      x: [b, H, W, c] images, uint8 or float, 0 to 255.
      y: likewise.
    """
    error = jnp.mean(jnp.square(_float(x) - _float(y)), axis=(1, 2, 3))
    return jnp.where(
        error == 0, _MAX_PSNR, 10.0 * jnp.log10(_PEAK**2 / jnp.where(error == 0, 1.0, error))
    )


def ssim(x: Array, y: Array) -> Array:
    """Returns the mean structural similarity of each pair, [b] in [-1, 1].

    Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861, equation 13), where the window fits
    into the image; channels count alike.

    Args:
      x: [b, H, W, c] images, uint8 or float, 0 to 255, both sides at least 11.
      y: likewise.

    Raises:
      UserError: for smaller images.
    """
    if min(x.shape[1:3]) < SSIM_WINDOW:
        raise UserError(
            f"ssim: images of {x.shape[1]}x{x.shape[2]} are too small. Legal: {SSIM_WINDOW} pixels "
            "and more on each side."
        )
    x, y = _float(x), _float(y)
    mean_x, mean_y = _blur(x), _blur(y)
    # Moments about a grey of 128, not 0: differences of large squares lose float32's digits.
    variance_x = _blur(jnp.square(x - 128)) - jnp.square(mean_x - 128)
    variance_y = _blur(jnp.square(y - 128)) - jnp.square(mean_y - 128)
    covariance = _blur((x - 128) * (y - 128)) - (mean_x - 128) * (mean_y - 128)
    luminance = (2 * mean_x * mean_y + _C1) / (jnp.square(mean_x) + jnp.square(mean_y) + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def difference(x: Array, y: Array) -> Array:
    """Returns y - x as a picture, uint8: grey where they agree, brighter where y is."""
    return jnp.clip(jnp.round(128 + _float(y) - _float(x)), 0, 255).astype(jnp.uint8)


def _float(x: Array) -> Array:
    return x.astype(jnp.float32)


def _blur(x: Array) -> Array:
    """Returns weighted means over all windows, [b, H - 10, W - 10, c]."""
    offsets = jnp.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = jnp.exp(-0.5 * jnp.square(offsets / _SIGMA))
    weights = weights / jnp.sum(weights)
    for axis in (1, 2):
        length = x.shape[axis] - SSIM_WINDOW + 1
        parts = [
            w * jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k, w in enumerate(weights)
        ]
        x = jnp.sum(jnp.stack(parts), axis=0)
    return x
