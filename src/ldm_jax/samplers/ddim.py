"""Denoising diffusion implicit models (Song et al. 2020, arXiv 2010.02502)."""

from typing import Any

import jax.numpy as jnp

from ldm_jax.core import rng
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.spacing import Steps
from ldm_jax.samplers.base import Sampler


def ddim_sigma(alpha_bar: Any, alpha_bar_next: Any, eta: float) -> Any:
    """Returns the standard deviation of the noise that one step adds, shaped like `alpha_bar`.

    eta sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar_next),
    Song et al. 2020, eq. 16. NumPy arrays stay NumPy arrays and keep their precision.
    """
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    return eta * variance**0.5


def ddim(eta: float = 0.0) -> Sampler:
    """Returns the sampler of Song et al. 2020, eq. 12.

    z_next = sqrt(alpha_bar_next) x0 + sqrt(1 - alpha_bar_next - sigma^2) eps + sigma noise

    Args:
      eta: 0 is deterministic, 1 has the variance of ancestral sampling; in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise UserError(f"sampler 'ddim' eta: got {eta}. Legal: 0 to 1.")

    def update(
        state: Any, z: Array, prediction: Prediction, step: Steps, keys: Array
    ) -> tuple[Array, Any]:
        sigma = ddim_sigma(step.alpha_bar, step.alpha_bar_next, eta)
        # Rounding may leave a tiny negative number where sigma takes all the variance.
        direction = jnp.sqrt(jnp.maximum(1 - step.alpha_bar_next - sigma**2, 0))
        z = jnp.sqrt(step.alpha_bar_next) * prediction.x0 + direction * prediction.eps
        if eta > 0:
            z = z + sigma * rng.normal(keys, z.shape[1:])
        return z, state

    return Sampler(init=lambda z_T: (), update=update)
