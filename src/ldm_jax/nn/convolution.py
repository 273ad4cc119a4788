"""Two-dimensional convolution, in the form that the platform is fastest at."""

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array

_MANY_CHANNELS, _FEW_PIXELS = 1024, 256


def convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Returns the cross-correlation of maps and a square kernel, [b, h', w', d].

    Which form is taken depends on shapes and on the platform that the program is lowered for, not
    on the one at hand, so that a CPU can still export for a TPU.

    Args:
      x: [b, h, w, c].
      kernel: [k, k, c, d].
      stride: on both axes.
      padding: zeros (before, after) on both axes.
    """

    def plain(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=(padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    keeps_size = stride == 1 and padding[0] + padding[1] == kernel.shape[0] - 1
    if not keeps_size or not _prefers_patches(x.shape, kernel.shape[0]):
        return plain(x, kernel)

    def patches(x: Array, kernel: Array) -> Array:
        return convolve_patches(x, kernel, padding)

    return jax.lax.platform_dependent(x, kernel, cpu=patches, default=plain)


def _prefers_patches(shape: tuple[int, ...], size: int) -> bool:
    """Returns whether a CPU is faster with the product of patches (jax 0.10.2, two cores).

    XLA has no fast path for maps smaller than the kernel: 8 maps of 2x2 and 512 to 256 channels
    take it 25 times as long, and 20 times with gradients; 16x16 latents end here in a U-Net of four
    levels. For small maps of many channels, as at the end of Stable Diffusion's, patches are faster
    too: 1.2 to 2.5 times, with gradients 1.3 to 2.7 times, for which the patches are kept.
    """
    _, h, w, c = shape
    return max(h, w) < size or (c >= _MANY_CHANNELS and h * w <= _FEW_PIXELS)


def convolve_patches(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """Returns the convolution of stride 1 that keeps the size, as one product of matrices.

    Every pixel's k x k window becomes a row. The kernel is read as it lies, once: for small maps it
    is larger than all the windows, and rearranging it would cost more than products with zeros.
    """
    b, h, w, c = x.shape
    size, _, _, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    windows = [padded[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    rows = jnp.concatenate(windows, axis=-1).reshape(b * h * w, size * size * c)
    y = rows @ kernel.reshape(size * size * c, features)
    return y.reshape(b, h, w, features)
