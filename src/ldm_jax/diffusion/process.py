"""The forward process q(z_t | x0) and its exact posterior q(z_{t-1} | z_t, x0)."""

from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array
from ldm_jax.diffusion.schedule import Schedule

# The posterior of t = 0 has variance 0; the reference clips before the logarithm.
MIN_VARIANCE = 1e-20


def per_example(values: Array, x: Array) -> Array:
    """Returns [b] (or scalar) `values` as [b, 1, ..., 1] (or scalar), to multiply `x` [b, ...]."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)) if values.ndim else values


def alpha_bar_at(schedule: Schedule, t: Array) -> Array:
    """Returns alpha_bar at timesteps `t`, [b] float32.

    Integers, of any dtype, give the table's entry exactly. Between two of them the logarithm of
    the signal-to-noise ratio is linear, as in k-diffusion: samplers may place their steps anywhere
    in [0, T - 1].
    """
    lower = jnp.floor(t).astype(jnp.int32)
    upper = jnp.minimum(lower + 1, schedule.num_timesteps - 1)
    fraction = (t - lower).astype(schedule.alpha_bar.dtype)
    below, above = schedule.alpha_bar[lower], schedule.alpha_bar[upper]
    log_snr = (1 - fraction) * _logit(below) + fraction * _logit(above)
    return jnp.where(fraction == 0, below, jax.nn.sigmoid(log_snr))


def q_sample(schedule: Schedule, x0: Array, t: Array, eps: Array) -> Array:
    """Returns z_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps, shaped like `x0`.

    Ho et al. 2020, eq. 4.

    Args:
      schedule: the noise schedule.
      x0: [b, ...] clean data.
      t: [b] int32 in [0, T).
      eps: standard normal noise shaped like `x0`, drawn by the caller.
    """
    alpha_bar = per_example(schedule.alpha_bar[t], x0)
    return jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1 - alpha_bar) * eps


def posterior_coefficients(alpha_bar: Any, alpha_bar_prev: Any) -> tuple[Any, Any, Any]:
    """Returns (c_x0, c_z, variance) of q(z_s | z_t, x0) = N(c_x0 x0 + c_z z_t, variance I), s < t.

    Ho et al. 2020, eqs. 6 and 7, with alpha = alpha_bar / alpha_bar_prev and beta = 1 - alpha, so
    that s need not be t - 1:

      c_x0 = sqrt(alpha_bar_prev) beta / (1 - alpha_bar)
      c_z = sqrt(alpha) (1 - alpha_bar_prev) / (1 - alpha_bar)
      variance = beta (1 - alpha_bar_prev) / (1 - alpha_bar)

    At alpha_bar_prev = 1, clean data, they are exactly (1, 0, 0). NumPy arrays stay NumPy arrays
    and keep their precision.

    Args:
      alpha_bar: signal left at t, any shape, in (0, 1).
      alpha_bar_prev: signal left at s, same shape, in [alpha_bar, 1].
    """
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    c_x0 = alpha_bar_prev**0.5 * beta / (1 - alpha_bar)
    c_z = alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar)
    variance = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return c_x0, c_z, variance


def posterior(schedule: Schedule, x0: Array, z_t: Array, t: Array) -> tuple[Array, Array, Array]:
    """Returns mean, variance and log variance of q(z_{t-1} | z_t, x0).

    The mean is shaped like `x0`, the others are [b, 1, ..., 1]. At t = 0 the mean is x0 and the
    variance 0; the logarithm is that of max(variance, 1e-20), as in the reference.

    Args:
      schedule: the noise schedule.
      x0: [b, ...] clean data, or a prediction of it.
      z_t: shaped like `x0`.
      t: [b] int32 in [0, T).
    """
    previous = jnp.where(t > 0, schedule.alpha_bar[jnp.maximum(t - 1, 0)], 1.0)
    coefficients = posterior_coefficients(schedule.alpha_bar[t], previous)
    c_x0, c_z, variance = (per_example(c, x0) for c in coefficients)
    return c_x0 * x0 + c_z * z_t, variance, jnp.log(jnp.maximum(variance, MIN_VARIANCE))


def _logit(alpha_bar: Array) -> Array:
    return jnp.log(alpha_bar) - jnp.log1p(-alpha_bar)
