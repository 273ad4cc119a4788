"""SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, section 5), stochastic."""

import numpy as np

from ldm_jax.core.checks import check_in, check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

SOLVERS = ("midpoint", "heun")


def dpmpp_2m_sde(levels: Levels, eta: float = 1.0, solver: str = "midpoint") -> Rows:
    """Returns the two-step method for the diffusion SDE, after k-diffusion's `sample_dpmpp_2m_sde`.

    With lambda = -log sigma, h = lambda_next - lambda, g = 1 - exp(-(1 + eta) h), r = h_before / h
    and x = z / sqrt(alpha_bar),

      x_next = exp(-(1 + eta) h) x + g x0 + c (x0 - x0_before) / r
               + sigma_next sqrt(1 - exp(-2 eta h)) noise

    with c = g / 2 ('midpoint') or 1 - g / ((1 + eta) h) ('heun'). The first step, and one to clean
    data, leave out the third term.

    Args:
      levels: noise levels to visit.
      eta: 0 is `dpmpp_2m`, 1 the whole noise of the SDE; in [0, 1].
      solver: how the change of x0 over the step is weighted: 'midpoint' or 'heun'.
    """
    check_range("sampler 'dpmpp_2m_sde' eta", eta, 0, 1)
    check_in("sampler 'dpmpp_2m_sde' solver", solver, SOLVERS)
    h, ratio = levels.log_steps("dpmpp_2m_sde")
    gain = -np.expm1(-(1 + eta) * h)
    change = ratio * (gain / 2 if solver == "midpoint" else 1 - gain / ((1 + eta) * h))
    signal, signal_next = levels.signal[:-1], levels.signal[1:]
    return make_rows(
        levels.t,
        base=signal_next / signal * (1 - gain),
        x0=signal_next * (gain + change),
        h1=-signal_next * change,
        noise=signal_next * levels.sigma[1:] * np.sqrt(-np.expm1(-2 * eta * h)),
        keep_x0=1,
    )
