"""Distances between the network's output and its target, one number per example."""

import jax.numpy as jnp

from ldm_jax.core.checks import check_shape
from ldm_jax.core.types import Array
from ldm_jax.diffusion.process import per_example, posterior, posterior_coefficients
from ldm_jax.diffusion.schedule import Schedule


def l1(output: Array, target: Array) -> Array:
    """Returns the mean absolute error of each example, [b] float32, from two [b, ...] arrays."""
    return _per_example_mean(jnp.abs(_difference(output, target)))


def l2(output: Array, target: Array) -> Array:
    """Returns the mean squared error of each example, [b] float32, from two [b, ...] arrays."""
    return _per_example_mean(jnp.square(_difference(output, target)))


def variational_bound(
    schedule: Schedule, x0: Array, fraction: Array, z0: Array, z_t: Array, t: Array
) -> Array:
    """Returns the terms L_t of the variational bound at timesteps t, [b], in bits per dimension.

    KL(q(z_{t-1} | z_t, z0) || p(z_{t-1} | z_t)) for t > 0, and -log p(z0 | z_1) at t = 0, where the
    variance of p is exp(fraction log beta_t + (1 - fraction) log posterior variance): Nichol and
    Dhariwal 2021, arXiv 2102.09672, eqs. 4 to 7 and 15. Latents are continuous, so that the last
    term is a density and may be negative.

    Args:
      schedule: the noise schedule.
      x0: [b, ...] predicted clean latents.
      fraction: shaped like `x0`.
      z0: [b, ...] clean latents.
      z_t: [b, ...] noisy latents.
      t: [b] int32.
    """
    true_mean, _, log_posterior = posterior(schedule, z0, z_t, t)
    mean, _, _ = posterior(schedule, x0, z_t, t)
    # At t = 0 the posterior has no variance; as the authors, take that of t = 1.
    table = schedule.alpha_bar
    at_one = jnp.log(posterior_coefficients(table[1], table[0])[2])
    first = per_example(t == 0, z_t)
    log_smallest = jnp.where(first, at_one, log_posterior)
    previous = jnp.where(t > 0, table[jnp.maximum(t - 1, 0)], 1.0)
    log_beta = per_example(jnp.log(1 - table[t] / previous), z_t)
    log_variance = fraction * log_beta + (1 - fraction) * log_smallest
    squared = jnp.square(true_mean - mean)
    kl = 0.5 * (
        log_variance
        - log_smallest
        + jnp.exp(log_smallest - log_variance)
        - 1
        + squared * jnp.exp(-log_variance)
    )
    density = 0.5 * (
        log_variance + jnp.square(z0 - mean) * jnp.exp(-log_variance) + jnp.log(2 * jnp.pi)
    )
    return _per_example_mean(jnp.where(first, density, kl)) / jnp.log(2.0)


LOSSES = {"l1": l1, "l2": l2}


def _difference(output: Array, target: Array) -> Array:
    check_shape("network output", output.shape, target.shape)  # broadcasting would hide a mistake
    return output.astype(jnp.float32) - target.astype(jnp.float32)


def _per_example_mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
