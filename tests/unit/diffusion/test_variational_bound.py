"""The bound that learned variances are trained with, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.loss import variational_bound
from ldm_jax.diffusion.schedule import make_schedule

RNG = np.random.default_rng(0)
SCHEDULE = make_schedule(num_timesteps=50)
T = np.array([0, 1, 2, 25, 49])
X0, Z0, EPS = (RNG.normal(size=(5, 3, 3, 2)) for _ in range(3))
FRACTION = RNG.uniform(-0.2, 1.2, size=(5, 3, 3, 2))  # the network is not held to [0, 1]


def _z_t():
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)[T].reshape(5, 1, 1, 1)
    return np.sqrt(alpha_bar) * Z0 + np.sqrt(1 - alpha_bar) * EPS


def _expected(x0, fraction):
    """Nichol and Dhariwal 2021, one element at a time."""
    table = np.asarray(SCHEDULE.alpha_bar, np.float64)
    beta = 1 - table / np.append(1.0, table[:-1])
    smallest = beta[1:] * (1 - table[:-1]) / (1 - table[1:])
    smallest = np.append(smallest[0], smallest)  # that of t = 1 stands for t = 0
    z_t, found = _z_t(), []
    for k, t in enumerate(T):
        before = 1.0 if t == 0 else table[t - 1]
        c_x0 = np.sqrt(before) * beta[t] / (1 - table[t])
        c_z = np.sqrt(1 - beta[t]) * (1 - before) / (1 - table[t])
        mean = c_x0 * x0[k] + c_z * z_t[k]
        variance = np.exp(fraction[k] * np.log(beta[t]) + (1 - fraction[k]) * np.log(smallest[t]))
        if t == 0:
            nats = ((Z0[k] - mean) ** 2 / variance + np.log(2 * np.pi * variance)) / 2
        else:
            true_mean = c_x0 * Z0[k] + c_z * z_t[k]
            squared = (true_mean - mean) ** 2
            nats = (np.log(variance / smallest[t]) + (smallest[t] + squared) / variance - 1) / 2
        found.append(nats.mean() / np.log(2))
    return np.array(found)


def _bound(x0, fraction):
    arrays = (jnp.asarray(x, jnp.float32) for x in (x0, fraction, Z0, _z_t()))
    return jax.jit(variational_bound)(SCHEDULE, *arrays, jnp.asarray(T, jnp.int32))


def test_each_timestep():
    np.testing.assert_allclose(_bound(X0, FRACTION), _expected(X0, FRACTION), rtol=5e-3)


def test_the_smallest_variance_and_the_truth_cost_nothing():
    found = _bound(Z0, np.zeros_like(Z0))
    np.testing.assert_allclose(found[1:], 0, atol=1e-4)
    # A density of that variance at its own mean; it may be negative.
    table = np.asarray(SCHEDULE.alpha_bar, np.float64)
    variance = (1 - table[1] / table[0]) * (1 - table[0]) / (1 - table[1])
    assert found[0] == pytest.approx(np.log(2 * np.pi * variance) / 2 / np.log(2), rel=1e-3)
