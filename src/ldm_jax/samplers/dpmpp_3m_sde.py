"""SDE-DPM-Solver++(3M), stochastic, from the last three x0, after k-diffusion."""

import numpy as np

from ldm_jax.core.checks import check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows


def dpmpp_3m_sde(levels: Levels, eta: float = 1.0) -> Rows:
    """Returns the three-step method of k-diffusion's `sample_dpmpp_3m_sde`.

    With lambda = -log sigma, l = (1 + eta) (lambda_next - lambda) and x = z / sqrt(alpha_bar),

      x_next = exp(-l) x + (1 - exp(-l)) x0 + phi_2 d_1 - phi_3 d_2
               + sigma_next sqrt(1 - exp(-2 eta h)) noise
      phi_2 = 1 - (1 - exp(-l)) / l        phi_3 = phi_2 / l - 1 / 2

    where d_1, d_2 come of the divided differences of the last three x0: the first derivative in
    units of h, and half of the second. A method of third order would take the whole of the second;
    this is k-diffusion's, whose error of second order is small. The first two steps take as many as
    there are, one to clean data takes x0 alone.

    Args:
      levels: noise levels to visit.
      eta: 0 is deterministic, 1 the whole noise of the SDE; in [0, 1].
    """
    check_range("sampler 'dpmpp_3m_sde' eta", eta, 0, 1)
    h, ratio = levels.log_steps("dpmpp_3m_sde")
    length = (1 + eta) * h
    gain = -np.expm1(-length)
    phi_2 = 1 - gain / length
    phi_3 = phi_2 / length - 0.5
    now, before, oldest = _derivatives(h, ratio)
    signal, signal_next = levels.signal[:-1], levels.signal[1:]
    terms = [signal_next * (phi_2 * d_1 - phi_3 * d_2) for d_1, d_2 in (now, before, oldest)]
    return make_rows(
        levels.t,
        base=signal_next / signal * (1 - gain),
        x0=signal_next * gain + terms[0],
        h1=terms[1],
        h2=terms[2],
        noise=signal_next * levels.sigma[1:] * np.sqrt(-np.expm1(-2 * eta * h)),
        keep_x0=1,
    )


def _derivatives(h: np.ndarray, ratio: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the weights of x0, h1 and h2 in (d_1, d_2).

    With r_0 = h_1 / h, r_1 = h_2 / h of the steps before, s_0 = (x0 - h1) / r_0 and
    s_1 = (h1 - h2) / r_1: d_2 = (s_0 - s_1) / (r_0 + r_1) and d_1 = s_0 + r_0 d_2.
    """
    inverse_0 = ratio  # h / h_1; 0 where there is no step before, or the step is infinite
    inverse_1 = np.zeros_like(h)  # h / h_2
    inverse_1[2:] = np.where(ratio[2:] > 0, h[2:] / h[:-2], 0)
    two = inverse_1 > 0
    r_0 = np.divide(1, inverse_0, where=two, out=np.zeros_like(h))
    r_1 = np.divide(1, inverse_1, where=two, out=np.zeros_like(h))
    second = np.divide(1, r_0 + r_1, where=two, out=np.zeros_like(h))  # of s_0 - s_1 in d_2
    first = 1 + r_0 * second  # of s_0 in d_1
    return [
        (first * inverse_0, second * inverse_0),
        (-first * inverse_0 - r_0 * second * inverse_1, -second * (inverse_0 + inverse_1)),
        (r_0 * second * inverse_1, second * inverse_1),
    ]
