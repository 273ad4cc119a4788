"""Few-step sampling of consistency-distilled models (Luo et al. 2023, arXiv 2310.04378)."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

_SIGMA_DATA = 0.5
_TIMESTEP_SCALE = 10.0


def lcm(levels: Levels) -> Rows:
    """Returns multistep consistency sampling: jump to clean data, then noise up again.

    f = c_skip z + c_out x0,   c_skip = d^2 / (u^2 + d^2),  c_out = u / sqrt(u^2 + d^2)
    z_next = sqrt(alpha_bar_next) f + sqrt(1 - alpha_bar_next) noise

    with u = 10 t and d = 1/2: the boundary condition of the authors' weights (their appendix).
    """
    u = _TIMESTEP_SCALE * levels.t
    c_skip = _SIGMA_DATA**2 / (u**2 + _SIGMA_DATA**2)
    c_out = u / np.sqrt(u**2 + _SIGMA_DATA**2)
    signal_next = levels.signal[1:]
    return make_rows(
        levels.t, base=signal_next * c_skip, x0=signal_next * c_out, noise=levels.noise[1:]
    )
