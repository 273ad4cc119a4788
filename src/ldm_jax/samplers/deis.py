"""Diffusion exponential integrator sampler, log-rho variant (Zhang and Chen 2022, 2204.13902)."""

import numpy as np
from numpy.polynomial import Polynomial

from ldm_jax.core.checks import check_in
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

ORDERS = (1, 2, 3)


def deis(levels: Levels, order: int = 2) -> Rows:
    """Returns multistep steps whose eps is a polynomial in log sigma.

    x_next = x + sum_j c_j eps_j,   c_j = integral from sigma to sigma_next of L_j(log s) ds

    with x = z / sqrt(alpha_bar), the last `order` values of eps, and L_j the polynomial that is 1
    at the logarithm of eps_j's sigma and 0 at the others'. The first steps take as many values as
    there are, and one to clean data, where the logarithm has no end, takes one.

    Args:
      levels: noise levels to visit.
      order: number of values, 1 to 3.
    """
    check_in("sampler 'deis' order", order, ORDERS)
    levels.check_distinct("deis")
    sigma, signal = levels.sigma, levels.signal
    weights = np.zeros((len(levels), max(ORDERS)))
    for i in range(len(levels)):
        count = order if sigma[i + 1] > 0 else 1
        nodes = np.log(sigma[max(i - count + 1, 0) : i + 1][::-1])
        for j in range(len(nodes)):
            weights[i, j] = _integral(nodes, j, sigma[i], sigma[i + 1])
    now, h1, h2 = signal[1:] * weights.T
    return make_rows(
        levels.t,
        base=0,
        x0=signal[1:],
        eps=signal[1:] * sigma[:-1] + now,
        h1=h1,
        h2=h2,
        keep_eps=1,
    )


def _integral(nodes: np.ndarray, j: int, start: float, stop: float) -> float:
    """Returns the integral of L_j(log s) over s, in closed form.

    In u = log(s / start), the integral of p(u) exp(u) is exp(u) (p - p' + p'' - ...).
    """
    if len(nodes) == 1:
        return stop - start
    others = np.delete(nodes, j) - nodes[0]  # nodes[0] is log start
    basis = Polynomial.fromroots(others)
    basis = basis / basis(nodes[j] - nodes[0])
    primitive, derivative, sign = Polynomial([0.0]), basis, 1
    while derivative.degree() > 0 or derivative.coef[0] != 0:
        primitive = primitive + sign * derivative
        derivative, sign = derivative.deriv(), -sign
    end = np.log(stop / start)
    return stop * primitive(end) - start * primitive(0.0)
