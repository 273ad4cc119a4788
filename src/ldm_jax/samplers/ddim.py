"""Denoising diffusion implicit models (Song et al. 2020, arXiv 2010.02502)."""

from typing import Any

import numpy as np

from ldm_jax.core.checks import check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows


def ddim_sigma(alpha_bar: Any, alpha_bar_next: Any, eta: float) -> Any:
    """Returns the standard deviation of the noise that one step adds, shaped like `alpha_bar`.

    eta sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) sqrt(1 - alpha_bar / alpha_bar_next),
    Song et al. 2020, eq. 16.
    """
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    return eta * variance**0.5


def ddim(levels: Levels, eta: float = 0.0) -> Rows:
    """Returns the sampler of Song et al. 2020, eq. 12.

    z_next = sqrt(alpha_bar_next) x0 + sqrt(1 - alpha_bar_next - sigma^2) eps + sigma noise

    Args:
      levels: noise levels to visit.
      eta: 0 is deterministic, 1 has the variance of ancestral sampling; in [0, 1].
    """
    check_range("sampler 'ddim' eta", eta, 0, 1)
    alpha_bar, alpha_bar_next = levels.alpha_bar[:-1], levels.alpha_bar[1:]
    sigma = ddim_sigma(alpha_bar, alpha_bar_next, eta)
    # Rounding may leave a tiny negative number where sigma takes all the variance.
    direction = np.sqrt(np.maximum(1 - alpha_bar_next - sigma**2, 0))
    return make_rows(levels.t, base=0, x0=np.sqrt(alpha_bar_next), eps=direction, noise=sigma)
