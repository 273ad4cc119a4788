"""Dense and convolutional layers with the reference's initialisation and explicit padding."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from ldm_jax.core.types import Array
from ldm_jax.nn.convolution import convolve
from ldm_jax.nn.init import layer_init


class Dense(nn.Module):
    """Returns x @ kernel + bias over the last axis, [..., c] -> [..., features].

    Flax's own layer cannot give the bias an initialiser that depends on the input width, which
    the reference's initialisation needs.

    Attributes:
      zero_init: start from zeros instead of U(+-1/sqrt(c)).
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps the last axis."""
        init = layer_init(x.shape[-1], self.zero_init)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = jnp.dot(x, kernel)
        return _add_bias(self, y, init) if self.use_bias else y


class Conv(nn.Module):
    """Returns a two-dimensional convolution, [b, h, w, c] -> [b, h', w', features].

    Attributes:
      kernel_size: edge of the square kernel.
      strides: step on both axes.
      padding: zeros (before, after) on both axes; None pads so that stride 1 keeps the size.
        It is explicit because the U-Net and the autoencoder pad their strided convolutions
        differently, and `SAME` is only one of the two.
      zero_init: start from zeros instead of U(+-1/sqrt(kernel_size^2 c)).
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: tuple[int, int] | None = None
    zero_init: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves a batch of maps."""
        size, channels = self.kernel_size, x.shape[-1]
        init = layer_init(size * size * channels, self.zero_init)
        shape = (size, size, channels, self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        padding = (size // 2, size // 2) if self.padding is None else self.padding
        return _add_bias(self, convolve(x, kernel, self.strides, padding), init)


def _add_bias(module: Dense | Conv, y: Array, init: Any) -> Array:
    bias = module.param("bias", init, (module.features,), module.param_dtype)
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
