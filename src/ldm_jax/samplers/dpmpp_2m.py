"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows


def dpmpp_2m(levels: Levels) -> Rows:
    """Returns the two-step method of second order with one evaluation per step.

    With lambda = -log sigma, h = lambda_next - lambda, r = h_before / h, x = z / sqrt(alpha_bar),

      x_next = exp(-h) x + (1 - exp(-h)) (x0 + (x0 - x0_before) / (2 r))

    The first step, and one to clean data, where h is infinite, leave out the last term.
    """
    h, ratio = levels.log_steps("dpmpp_2m")
    gain = -np.expm1(-h)
    slope = gain * ratio / 2
    signal, signal_next = levels.signal[:-1], levels.signal[1:]
    return make_rows(
        levels.t,
        base=signal_next / signal * (1 - gain),
        x0=signal_next * (gain + slope),
        h1=-signal_next * slope,
        keep_x0=1,
    )
