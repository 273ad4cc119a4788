"""Heun's method (Karras et al. 2022, algorithm 1), second order."""

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, interleave, make_rows


def heun(levels: Levels) -> Rows:
    """Returns Euler steps, each corrected by the slope at the point where it lands.

    x_euler = x + (sigma_next - sigma) eps(x)
    x_next = x_euler + (sigma_next - sigma) (eps(x_euler) - eps(x)) / 2

    with x = z / sqrt(alpha_bar). Two evaluations per step; a last step to clean data is Euler's,
    as there is no slope at sigma 0.
    """
    sigma, sigma_next = levels.sigma[:-1], levels.sigma[1:]
    signal_next = levels.signal[1:]
    euler = make_rows(levels.t, base=0, x0=signal_next, eps=signal_next * sigma_next, keep_eps=1)
    inner = sigma_next > 0
    half = (signal_next * (sigma_next - sigma) / 2)[inner]
    correction = make_rows(levels.t_at(levels.alpha_bar[1:][inner]), base=1, eps=half, h1=-half)
    return interleave(euler, correction)
