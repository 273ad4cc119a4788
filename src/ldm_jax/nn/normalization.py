"""Normalisation layers; statistics are float32 whatever the compute type."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ldm_jax.core.types import Array

# Names the means and variances, for policies of rematerialisation: tiny, and a whole map to redo.
STATISTICS = "norm_statistics"

EPS_UNET = 1e-5
EPS_TRANSFORMER = 1e-6
EPS_AUTOENCODER = 1e-6
EPS_LAYER_NORM = 1e-5
EPS_BERT = 1e-12


class GroupNorm(nn.Module):
    """Returns (x - mean) / sqrt(variance + eps) * scale + bias per image and group of channels.

    Wu & He 2018, https://arxiv.org/abs/1803.08494, equation 1; the variance is the biased one.
    [b, h, w, c] -> [b, h, w, c]; parameters `scale` and `bias`, [c].

    Maps are read once for the statistics and once for the result. E[x^2] - E[x]^2 would cancel
    where a mean is large; about a pixel from the middle of the map itself it does not, unless that
    pixel is thousands of deviations away. The statistics of channels combine to those of groups
    without touching the map again.

    Attributes:
      num_groups: must divide c.
      eps: added to the variance.
      dtype: type of the result; statistics are float32.
      param_dtype: type of the parameters.
    """

    num_groups: int
    eps: float
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises a batch of maps."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        mean, inverse = group_statistics(x, self.num_groups, self.eps)
        y = (x.astype(jnp.float32) - mean) * (inverse * scale.reshape(1, 1, 1, -1))
        return (y + bias.reshape(1, 1, 1, -1)).astype(self.dtype)


def group_statistics(x: Array, num_groups: int, eps: float) -> tuple[Array, Array]:
    """Returns each channel's group's mean and 1 / sqrt(variance + eps), both [b, 1, 1, c] float32.

    Args:
      x: [b, h, w, c] maps of any type.
      num_groups: must divide c.
      eps: added to the variance.
    """
    x = x.astype(jnp.float32)
    # No statistic depends on the pixel, so it takes no gradient. Those at the rim are the likeliest
    # to lie far from the mean, since convolutions see zeros there.
    row, column = x.shape[1] // 2, x.shape[2] // 2
    pixel = jax.lax.stop_gradient(x[:, row : row + 1, column : column + 1])
    about = x - pixel
    first = jnp.mean(about, axis=(1, 2), keepdims=True)
    second = jnp.mean(jnp.square(about), axis=(1, 2), keepdims=True)
    means = _by_group(first + pixel, num_groups)
    variances = _by_group(jnp.maximum(second - jnp.square(first), 0.0), num_groups)
    mean = jnp.mean(means, axis=-1, keepdims=True)
    variance = jnp.mean(variances + jnp.square(means - mean), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    spread = tuple(jnp.broadcast_to(y, means.shape).reshape(first.shape) for y in (mean, inverse))
    return checkpoint_name(spread[0], STATISTICS), checkpoint_name(spread[1], STATISTICS)


def _by_group(x: Array, num_groups: int) -> Array:
    return x.reshape(*x.shape[:-1], num_groups, -1)


def group_norm(
    num_groups: int,
    eps: float,
    *,
    name: str,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> GroupNorm:
    """Returns a `GroupNorm`.

    `eps` has no default: the reference uses 1e-5 in the U-Net's residual and attention blocks
    and 1e-6 in its spatial transformers and in the autoencoder.
    """
    return GroupNorm(num_groups, eps, dtype=dtype, param_dtype=param_dtype, name=name)


def layer_norm(
    *,
    name: str,
    eps: float = EPS_LAYER_NORM,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> nn.LayerNorm:
    """Returns a layer normalisation over the last axis, by default with the reference's epsilon.

    Ba et al. 2016, https://arxiv.org/abs/1607.06450, equation 3, with scale and bias.
    """
    return nn.LayerNorm(
        epsilon=eps,
        dtype=dtype,
        param_dtype=param_dtype,
        use_fast_variance=False,
        name=name,
    )
