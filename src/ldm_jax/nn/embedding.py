"""Embedding of the diffusion time."""

import jax.numpy as jnp

from ldm_jax.core.types import Array


def timestep_embedding(t: Array, dim: int, max_period: float = 10000.0) -> Array:
    """Returns sinusoids of the time, [b, dim] float32, cosines before sines.

    With half = dim // 2 the frequencies are max_period^(-k / half), k = 0 .. half - 1; an odd
    `dim` gets one column of zeros (facts of the reference, section 2.1; Vaswani et al. 2017,
    section 3.5, has sines and cosines interleaved).

    Args:
      t: [b] times in units of training steps, 0 to T - 1; fractions are meaningful.
      dim: width of the embedding.
      max_period: longest period divided by 2 pi.
    """
    half = dim // 2
    exponents = -jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half
    angles = t.astype(jnp.float32)[:, None] * jnp.exp(exponents)[None, :]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))
