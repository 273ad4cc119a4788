"""Euler's method for the probability flow (Karras et al. 2022, arXiv 2206.00364)."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows


def euler(levels: Levels) -> Rows:
    """Returns x_next = x + (sigma_next - sigma) eps, with x = z / sqrt(alpha_bar).

    As x is x0 + sigma eps, this is z_next = sqrt(alpha_bar_next) (x0 + sigma_next eps): the same
    numbers as DDIM with eta 0.
    """
    signal_next = levels.signal[1:]
    return make_rows(levels.t, base=0, x0=signal_next, eps=signal_next * levels.sigma[1:])


def ancestral_sigmas(
    sigma: np.ndarray, sigma_next: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (sigma_down, sigma_up): how far to denoise, and the noise to add then.

    sigma_down^2 + sigma_up^2 = sigma_next^2, and with eta = 1, sigma_up^2 is the posterior variance
    sigma_next^2 (sigma^2 - sigma_next^2) / sigma^2, as in k-diffusion.
    """
    ratio = sigma_next / sigma
    up = eta * sigma_next * np.sqrt(1 - ratio**2)
    # The difference of their squares, without its cancellation where a step is long.
    return sigma_next * np.sqrt((1 - eta) * (1 + eta) + (eta * ratio) ** 2), up
