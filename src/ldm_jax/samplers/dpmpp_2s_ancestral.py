"""DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, algorithm 1) with ancestral noise."""

import numpy as np

from ldm_jax.core.checks import check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, interleave, make_rows
from ldm_jax.samplers.euler import ancestral_sigmas


def dpmpp_2s_ancestral(levels: Levels, eta: float = 1.0) -> Rows:
    """Returns single steps of second order to sigma_down, and noise up to sigma_next.

    With lambda = -log sigma, h = lambda_down - lambda and x = z / sqrt(alpha_bar),

      x_mid = exp(-h / 2) x + (1 - exp(-h / 2)) x0(x)
      x_next = exp(-h) x + (1 - exp(-h)) x0(x_mid) + sigma_up noise

    after k-diffusion's `sample_dpmpp_2s_ancestral`. Two evaluations per step, but one for a step
    that goes down to clean data.

    Args:
      levels: noise levels to visit.
      eta: 0 is deterministic and of second order; in [0, 1].
    """
    check_range("sampler 'dpmpp_2s_ancestral' eta", eta, 0, 1)
    sigma = levels.sigma[:-1]
    down, up = ancestral_sigmas(sigma, levels.sigma[1:], eta)
    inner = levels.sigma[1:] > 0
    sigma_mid = np.where(inner, np.sqrt(sigma * down), 0)
    signal, signal_next = levels.signal[:-1], levels.signal[1:]
    signal_mid = 1 / np.sqrt(1 + sigma_mid**2)
    to_middle = make_rows(
        levels.t,
        base=signal_mid / signal * sigma_mid / sigma,
        x0=signal_mid * (1 - sigma_mid / sigma),
    )
    whole = make_rows(
        levels.t_at(signal_mid[inner] ** 2),
        from_z=0,
        from_base=1,
        base=(signal_next / signal * down / sigma)[inner],
        x0=(signal_next * (1 - down / sigma))[inner],
        noise=(signal_next * up)[inner],
    )
    return interleave(to_middle, whole)
