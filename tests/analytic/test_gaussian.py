"""Samplers against the exact solution for Gaussian data.

For data N(MU, S^2) in every element, z_t is N(sqrt(a) MU, a S^2 + 1 - a) with a = alpha_bar_t, and
the best prediction of x0 is MU + sqrt(a) S^2 / (a S^2 + 1 - a) (z_t - sqrt(a) MU).
Every step is then an affine map plus Gaussian noise: mean and variance of the result follow
from a recursion in float64. Along the probability flow, (z_t - sqrt(a) MU) / sqrt(a S^2 + 1 - a)
stays constant. The orders of all samplers are measured in test_order.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import alpha_bars, make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers.base import advance, image_keys, initial_noise, initial_state, padded
from ldm_jax.samplers.ddim import ddim
from ldm_jax.samplers.ddpm import ddpm

MU, S = 0.7, 0.4
SCHEDULE = make_schedule()
TABLE = alpha_bars()
# name -> (sampler, eta of the equivalent DDIM)
CASES = {
    "ddpm": (ddpm, 1.0),
    "ddim-0": (functools.partial(ddim, eta=0.0), 0.0),
    "ddim-0.5": (functools.partial(ddim, eta=0.5), 0.5),
    "ddim-1": (functools.partial(ddim, eta=1.0), 1.0),
}
CAPACITY = 1000


def _predict(z, t):
    """The optimal eps: sqrt(1 - a) (z - sqrt(a) MU) / (a S^2 + 1 - a)."""
    a = alpha_bar_at(SCHEDULE, t)[:, None, None, None]
    eps = jnp.sqrt(1 - a) * (z - jnp.sqrt(a) * MU) / (a * S**2 + 1 - a)
    return from_eps(eps, z, alpha_bar_at(SCHEDULE, t))


def _pairs(levels):
    """Returns (a, a_next) per step in float64, from the float64 table."""
    a = TABLE[levels.t.astype(int)]
    last = TABLE[0] if levels.alpha_bar[-1] < 1 else 1.0
    return list(zip(a, np.append(a[1:], last), strict=True))


def _affine(a, a_next, eta):
    """Returns (slope, offset, sigma) of one exact step, from eq. 12 of Song et al. 2020."""
    sigma = eta * np.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
    direction = np.sqrt(max(1 - a_next - sigma**2, 0)) / np.sqrt(1 - a)
    gain = np.sqrt(a) * S**2 / (a * S**2 + 1 - a)
    slope = (np.sqrt(a_next) - direction * np.sqrt(a)) * gain + direction
    offset = (np.sqrt(a_next) - direction * np.sqrt(a)) * (1 - gain * np.sqrt(a)) * MU
    return slope, offset, sigma


def _exact_moments(levels, eta):
    """Returns mean and standard deviation of z_0 for z_T ~ N(0, 1)."""
    mean, variance = 0.0, 1.0
    for a, a_next in _pairs(levels):
        slope, offset, sigma = _affine(a, a_next, eta)
        mean, variance = slope * mean + offset, slope**2 * variance + sigma**2
    return mean, np.sqrt(variance)


def _flow(z, a, a_next):
    """Returns the probability-flow solution at a_next that passes through z at a."""
    scale = np.sqrt((a_next * S**2 + 1 - a_next) / (a * S**2 + 1 - a))
    return np.sqrt(a_next) * MU + scale * (z - np.sqrt(a) * MU)


@jax.jit
def _run(z_T, rows, stop, keys):
    return advance(_predict, initial_state(z_T), rows, keys, 0, stop).z


def _sample(z_T, rows, keys):
    """Returns z_0 through one program for every table."""
    return np.asarray(_run(z_T, padded(rows, CAPACITY), len(rows), keys), np.float64)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _inputs(seed, batch, size):
    indices = jnp.arange(batch)
    return initial_noise(seed, indices, (size, size, 1)), image_keys(seed, indices)


@functools.partial(jax.jit, static_argnums=1)
def _noise(keys, count):
    """Returns what a sampler draws over `count` steps, [count, b, 4, 4, 1]."""

    def draw(key, index):
        return jax.random.normal(jax.random.fold_in(key, index), (4, 4, 1))

    return jax.vmap(lambda index: jax.vmap(draw, (0, None))(keys, index))(jnp.arange(count))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "reference"])
def test_every_path_is_the_exact_recursion(case, spacing):
    """The same noise through the sampler and through NumPy in float64."""
    sampler, eta = CASES[case]
    levels = make_levels(SCHEDULE, 10, spacing)
    z_T, keys = _inputs(0, 2, 4)
    expected = np.asarray(z_T, np.float64)
    for (a, a_next), noise in zip(_pairs(levels), _noise(keys, 10), strict=True):
        slope, offset, sigma = _affine(a, a_next, eta)
        expected = slope * expected + offset + sigma * np.asarray(noise)
    np.testing.assert_allclose(_sample(z_T, sampler(levels), keys), expected, atol=5e-5)


# Bounds on (mean - MU, std / S - 1) of the exact recursion. A step of eta > 0 draws from the
# posterior at one x0 and so loses the spread of x0 given z_t; an eta < 1 remembers that
# alpha_bar_T > 0, by sqrt(alpha_bar_T) MU S = 0.0033 at eta = 0.
BOUNDS = {
    ("ddpm", 1000): (1e-4, 0.020),
    ("ddim-1", 1000): (1e-4, 0.020),
    ("ddim-0.5", 1000): (1e-3, 0.012),
    ("ddim-0", 1000): (3.5e-3, 0.010),
    ("ddpm", 50): (1e-4, 0.17),
    ("ddim-1", 50): (1e-4, 0.17),
    ("ddim-0.5", 50): (1e-3, 0.13),
    ("ddim-0", 50): (3.5e-3, 0.13),
}


@pytest.mark.parametrize(("case", "num_steps"), BOUNDS)
def test_mean_and_standard_deviation(case, num_steps):
    """The recursion agrees with the data, and samples agree with the recursion."""
    sampler, eta = CASES[case]
    levels = make_levels(SCHEDULE, num_steps)
    mean, std = _exact_moments(levels, eta)
    mean_bound, std_bound = BOUNDS[case, num_steps]
    assert abs(mean - MU) < mean_bound
    assert abs(std / S - 1) < std_bound
    z_T, keys = _inputs(1, 8, 32)
    z_0 = _sample(z_T, sampler(levels), keys)
    # Four standard errors of the two estimates.
    assert abs(z_0.mean() - mean) < 4 * std / np.sqrt(z_0.size)
    assert abs(z_0.std() / std - 1) < 4 / np.sqrt(2 * z_0.size)


def test_ddim_converges_to_the_probability_flow_at_first_order():
    """From t = 999 to t = 0, in numbers of steps that divide 999."""
    z_T = jnp.linspace(-2, 2, 8).reshape(1, 8, 1, 1)
    expected = _flow(np.asarray(z_T, np.float64), TABLE[-1], TABLE[0])
    keys = image_keys(0, jnp.arange(1))
    errors = []
    for count in (111, 333, 999):
        # The last of count + 1 rows would go from t = 0 on to clean data.
        rows = jax.tree.map(
            lambda x: x[:-1], ddim(make_levels(SCHEDULE, count + 1, "linspace"), eta=0.0)
        )
        errors.append(np.abs(_sample(z_T, rows, keys) - expected).max())
    orders = np.log(np.array(errors[:-1]) / errors[1:]) / np.log(3)
    assert errors[-1] < 0.005
    np.testing.assert_allclose(orders, 1, atol=0.06)
    assert abs(orders[1] - 1) < abs(orders[0] - 1)
