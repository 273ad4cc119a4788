"""Changes of resolution by a factor of two."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.core.types import Array
from ldm_jax.nn.linear import Conv

# Zeros before and after each axis of a 3x3 convolution with stride 2.
PAD_SYMMETRIC = (1, 1)
PAD_AFTER = (0, 1)


def upsample_nearest(x: Array) -> Array:
    """Returns every pixel repeated twice on both axes, [b, h, w, c] -> [b, 2h, 2w, c]."""
    b, h, w, c = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return repeated.reshape(b, 2 * h, 2 * w, c)


def downsample_average(x: Array) -> Array:
    """Returns the means of 2x2 cells, [b, h, w, c] -> [b, h/2, w/2, c]; h and w are even."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def downsample_nearest(x: Array, factor: int) -> Array:
    """Returns every `factor`-th pixel from the first on, [b, h, w, c] -> [b, h/f, w/f, c].

    torch's 'nearest', which the reference shrinks masks with; `jax.image.resize` would take the
    pixel at the middle of each cell instead.
    """
    return x[:, ::factor, ::factor, :]


class Upsample(nn.Module):
    """Returns nearest-neighbour doubling and a 3x3 convolution of the same width."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, 2h, 2w, c]."""
        conv = Conv(x.shape[-1], dtype=self.dtype, param_dtype=self.param_dtype, name="conv")
        return conv(upsample_nearest(x))


class Downsample(nn.Module):
    """Returns a 3x3 convolution of the same width with stride 2.

    Attributes:
      padding: `PAD_SYMMETRIC` in the U-Net; `PAD_AFTER` in the autoencoder, which pads the right
        and the bottom only.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    padding: tuple[int, int] = PAD_SYMMETRIC
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h/2, w/2, c]."""
        return Conv(
            x.shape[-1],
            strides=2,
            padding=self.padding,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="conv",
        )(x)
