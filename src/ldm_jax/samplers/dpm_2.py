"""DPM-Solver-2 as in Karras et al. 2022 and k-diffusion's `sample_dpm_2`: the midpoint method."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, interleave, make_rows


def dpm_2(levels: Levels) -> Rows:
    """Returns steps along the slope at the geometric mean of both noise levels.

    sigma_mid = sqrt(sigma sigma_next)
    x_mid = x + (sigma_mid - sigma) eps(x)
    x_next = x + (sigma_next - sigma) eps(x_mid)

    with x = z / sqrt(alpha_bar). Two evaluations per step, but one for a last step to clean data.
    """
    sigma, sigma_next = levels.sigma[:-1], levels.sigma[1:]
    inner = sigma_next > 0
    # The last step, to sigma 0, is Euler's.
    sigma_mid = np.where(inner, np.sqrt(sigma * sigma_next), 0)
    signal, signal_next, signal_mid = levels.signal[:-1], levels.signal[1:], _signal(sigma_mid)
    to_middle = make_rows(levels.t, base=0, x0=signal_mid, eps=signal_mid * sigma_mid)
    whole = make_rows(
        levels.t_at(signal_mid[inner] ** 2),
        from_z=0,
        from_base=1,
        base=(signal_next / signal)[inner],
        eps=(signal_next * (sigma_next - sigma))[inner],
    )
    return interleave(to_middle, whole)


def _signal(sigma: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(1 + sigma**2)
