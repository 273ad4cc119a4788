"""Normalisation layers; statistics are float32 whatever the compute type."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

EPS_UNET = 1e-5
EPS_TRANSFORMER = 1e-6
EPS_AUTOENCODER = 1e-6
EPS_LAYER_NORM = 1e-5
EPS_BERT = 1e-12


def group_norm(
    num_groups: int,
    eps: float,
    *,
    name: str,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
) -> nn.GroupNorm:
    """Returns a group normalisation, [b, ..., c] -> [b, ..., c].

    Wu & He 2018, https://arxiv.org/abs/1803.08494, equation 1; the variance is the biased one.
    `eps` has no default: the reference uses 1e-5 in the U-Net's residual and attention blocks
    and 1e-6 in its spatial transformers and in the autoencoder. The variance is computed in two
    passes, since E[x^2] - E[x]^2 cancels where a group's mean is large.
    """
    return nn.GroupNorm(
        num_groups=num_groups,
        epsilon=eps,
        dtype=dtype,
        param_dtype=param_dtype,
        use_fast_variance=False,
        name=name,
    )


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
