"""Euler's method with ancestral noise, after k-diffusion's `sample_euler_ancestral`."""

from ldm_jax.core.checks import check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows
from ldm_jax.samplers.euler import ancestral_sigmas


def euler_ancestral(levels: Levels, eta: float = 1.0) -> Rows:
    """Returns x_next = x + (sigma_down - sigma) eps + sigma_up noise, x = z / sqrt(alpha_bar).

    Args:
      levels: noise levels to visit.
      eta: 0 is `euler`, 1 has the variance of ancestral sampling; in [0, 1].
    """
    check_range("sampler 'euler_ancestral' eta", eta, 0, 1)
    signal_next = levels.signal[1:]
    down, up = ancestral_sigmas(levels.sigma[:-1], levels.sigma[1:], eta)
    return make_rows(
        levels.t, base=0, x0=signal_next, eps=signal_next * down, noise=signal_next * up
    )
