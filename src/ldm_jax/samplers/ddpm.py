"""Ancestral sampling (Ho et al. 2020, algorithm 2) over any sub-sequence of timesteps."""

import numpy as np

from ldm_jax.core.checks import check_in
from ldm_jax.diffusion.process import posterior_coefficients
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

VARIANCES = ("posterior", "beta", "learned")


def ddpm(levels: Levels, variance: str = "posterior") -> Rows:
    """Returns the ancestral sampler: z_next ~ q(z_next | z, x0), with the predicted x0 for x0.

    A step to clean data adds no noise and returns the predicted x0.

    Args:
      levels: noise levels to visit.
      variance: of the noise. 'posterior' is that of q(z_next | z, x0), the best for one known x0;
        'beta' that of q(z | z_next), the best for x0 ~ N(0, I) (Ho et al. 2020, section 3.2);
        'learned' lies between the two where the model says (Nichol and Dhariwal 2021, eq. 15).
    """
    check_in("sampler 'ddpm' variance", variance, VARIANCES)
    alpha_bar, alpha_bar_next = levels.alpha_bar[:-1], levels.alpha_bar[1:]
    c_x0, c_z, posterior = posterior_coefficients(alpha_bar, alpha_bar_next)
    lower = np.sqrt(posterior)
    upper = np.sqrt(1 - alpha_bar / alpha_bar_next) * (alpha_bar_next < 1)
    noise = upper if variance == "beta" else lower
    learned = upper if variance == "learned" else 0
    return make_rows(levels.t, base=c_z, x0=c_x0, noise=noise, noise_upper=learned)
