"""Linear multistep method in sigma, after k-diffusion's `sample_lms`."""

import numpy as np
from numpy.polynomial import Polynomial

from ldm_jax.core.checks import check_in
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

ORDERS = (1, 2, 3, 4)


def lms(levels: Levels, order: int = 4) -> Rows:
    """Returns Adams-Bashforth steps for levels that are not evenly spaced.

    x_next = x + sum_j c_j eps_j,   c_j = integral from sigma to sigma_next of L_j

    with x = z / sqrt(alpha_bar), the last `order` values of eps, and L_j the polynomial that is 1
    at eps_j's sigma and 0 at the others'. The first steps take as many values as there are.

    Args:
      levels: noise levels to visit.
      order: number of values, 1 to 4.
    """
    check_in("sampler 'lms' order", order, ORDERS)
    levels.check_distinct("lms")
    sigma, signal = levels.sigma, levels.signal
    weights = np.zeros((len(levels), max(ORDERS)))
    for i in range(len(levels)):
        nodes = sigma[max(i - order + 1, 0) : i + 1][::-1]
        for j in range(len(nodes)):
            weights[i, j] = _integral(nodes, j, sigma[i], sigma[i + 1])
    now, h1, h2, h3 = signal[1:] * weights.T
    # x = x0 + sigma eps, written so that large sigma do not cancel.
    return make_rows(
        levels.t,
        base=0,
        x0=signal[1:],
        eps=signal[1:] * sigma[:-1] + now,
        h1=h1,
        h2=h2,
        h3=h3,
        keep_eps=1,
    )


def _integral(nodes: np.ndarray, j: int, start: float, stop: float) -> float:
    """Returns the integral of the Lagrange polynomial of node j."""
    others = np.delete(nodes, j)
    # In units of the interval: powers of sigma, up to thousands, would lose digits.
    unit = stop - start
    roots = (others - start) / unit
    basis = Polynomial.fromroots(roots) if len(roots) else Polynomial([1.0])
    primitive = basis.integ()
    return unit * (primitive(1) - primitive(0)) / basis((nodes[j] - start) / unit)
