"""Ancestral sampling (Ho et al. 2020, algorithm 2) over any sub-sequence of timesteps."""

from typing import Any

import jax.numpy as jnp

from ldm_jax.core import rng
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.process import posterior_coefficients
from ldm_jax.diffusion.spacing import Steps
from ldm_jax.samplers.base import Sampler


def ddpm() -> Sampler:
    """Returns the ancestral sampler: z_next ~ q(z_next | z, x0), with the predicted x0 for x0.

    Its variance is the posterior's between `alpha_bar` and `alpha_bar_next`, so a step to clean
    data, alpha_bar_next = 1, adds no noise and returns the predicted x0.
    """

    def update(
        state: Any, z: Array, prediction: Prediction, step: Steps, keys: Array
    ) -> tuple[Array, Any]:
        c_x0, c_z, variance = posterior_coefficients(step.alpha_bar, step.alpha_bar_next)
        noise = rng.normal(keys, z.shape[1:])
        return c_x0 * prediction.x0 + c_z * z + jnp.sqrt(variance) * noise, state

    return Sampler(init=lambda z_T: (), update=update)
