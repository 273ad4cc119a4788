import numpy as np
import pytest
from scipy.integrate import quad
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.deis import deis


def _weights(nodes, stop):
    """Returns the integral of each Lagrange polynomial in log sigma, by quadrature."""

    def lagrange(s, j):
        others = [node for node in nodes if node != nodes[j]]
        return np.prod([np.log(s / node) / np.log(nodes[j] / node) for node in others])

    return [quad(lagrange, nodes[0], stop, args=(j,), epsabs=1e-13)[0] for j in range(len(nodes))]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_five_steps(order):
    sigmas = [7, 5, 4, 2, 1, 0]
    weights = np.zeros((5, 3))
    for i in range(4):
        nodes = sigmas[max(i - order + 1, 0) : i + 1][::-1]
        weights[i, : len(nodes)] = _weights(nodes, sigmas[i + 1])
    weights[4, 0] = -1  # to clean data, of first order
    following = signal(sigmas[1:])
    now, h1, h2 = following * weights.T
    eps = following * sigmas[:-1] + now
    rows = deis(levels_of(*sigmas), order)
    assert_rows(rows, from_z=1, x0=following, eps=eps, h1=h1, h2=h2, keep_eps=1)


def test_errors():
    with pytest.raises(UserError, match=r"sampler 'deis' order: got 4\. Legal: 1, 2, 3\.$"):
        deis(levels_of(1, 0), order=4)
    with pytest.raises(UserError, match="'deis' with 2 steps: two of them"):
        deis(levels_of(1, 1, 0))
