"""The order of every sampler: how fast its error falls with the number of steps, in float64.

For data N(MU, S^2) in every element the best prediction is known, and so is the probability flow:
(z_t - sqrt(a) MU) / sqrt(a S^2 + 1 - a) stays constant, with a = alpha_bar_t. The noise levels are
smooth in log-SNR and end before clean data, where log-SNR is infinite.

A method of order p that takes twice the steps is wrong by 2^-p as much. A multistep method that
starts from z_T alone has a first step of first order, wrong by h^2, which nothing later repairs. So
the order of the method is measured with exact values in place of its first steps, and what the
start adds is measured by itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import Schedule, alpha_bars
from ldm_jax.diffusion.spacing import Levels, make_levels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import (
    State,
    advance,
    image_keys,
    initial_noise,
    initial_state,
    padded,
)

MU, S = 0.7, 0.4
TABLE = alpha_bars()
CAPACITY = 2048
HIGH, LOW = 20.0, 0.1
KEYS = image_keys(0, jnp.arange(1))


def _levels(steps, spacing):
    """Returns levels from sigma 20 to 0.1, not to clean data."""
    u = np.linspace(0, 1, steps + 1)
    if spacing == "uneven":
        # Every other step in log-SNR is twice as long, however many there are.
        u = np.append(0, np.cumsum(1 + np.arange(steps) % 2))
        u = u / u[-1]
    if spacing != "karras":
        sigma = HIGH * (LOW / HIGH) ** u
    else:
        sigma = (HIGH ** (1 / 7) + u * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7
    levels = Levels(t=np.zeros(steps), alpha_bar=1 / (1 + sigma**2), table=TABLE)
    return Levels(levels.t_at(levels.alpha_bar[:-1]), levels.alpha_bar, TABLE)


def _denoise(z, a):
    """Returns x0 and eps of the best prediction, in NumPy or JAX."""
    eps = (1 - a) ** 0.5 * (z - a**0.5 * MU) / (a * S**2 + 1 - a)
    return (z - (1 - a) ** 0.5 * eps) / a**0.5, eps


def _flow(z_T, a_T, a):
    """Returns the probability-flow solution at `a` that passes through z_T."""
    scale = np.sqrt((a * S**2 + 1 - a) / (a_T * S**2 + 1 - a_T))
    return np.sqrt(a) * MU + scale * (z_T - np.sqrt(a_T) * MU)


@jax.jit
def _run(table, state, rows, keys, start, stop):
    def predict(z, t):
        return Prediction(*_denoise(z, alpha_bar_at(Schedule(table), t)[:, None]))

    return advance(predict, state, rows, keys, start, stop).z


Z_T = np.linspace(-2, 2, 5)[None]


def _end(rows, levels, stop=None, start=0):
    """Returns z at level `stop` and its exact value, after the rows from `start` to `stop`.

    What the rows before `start` would have left is exact.
    """
    a = levels.alpha_bar
    exact = [_flow(Z_T, a[0], a_i) for a_i in a]
    with jax.enable_x64(True):
        state = initial_state(jnp.asarray(exact[start]))
        if start:
            kept = [
                rows.keep_x0[i] * x0 + rows.keep_eps[i] * eps
                for i in range(start - 3, start)
                for x0, eps in [_denoise(exact[i], a[i])]
            ]
            history = tuple(jnp.asarray(x) for x in kept[::-1])
            state = State(state.z, state.x0, jnp.asarray(exact[start - 1]), history)
        last = len(rows) if stop is None else stop
        z = _run(jnp.asarray(TABLE), state, padded(rows, CAPACITY), KEYS, start, last)
    assert z.dtype == jnp.float64
    return np.asarray(z), exact[-1 if stop is None else stop]


def _check_order(error, expected, tolerance):
    """Raises unless doubling the steps divides the error by 2^expected."""
    errors = np.array([np.abs(error(steps)).max() for steps in COUNTS])
    assert errors[-1] > 1e-13, f"{errors}: rounding"
    orders = np.log2(errors[:-1] / errors[1:])
    assert abs(orders[-1] - expected) < tolerance, f"measured {orders}, expected {expected}"


COUNTS = (256, 512, 1024)
SPACINGS = ("exponential", "karras", "uneven")
SINGLE_STEP = [
    ("ddim", {}, 1),
    ("euler", {}, 1),
    ("euler_ancestral", {"eta": 0.0}, 1),
    ("heun", {}, 2),
    ("dpm_2", {}, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2),
]
MULTISTEP = [
    *[("lms", {"order": order}, order) for order in (1, 2, 3, 4)],
    *[("deis", {"order": order}, order) for order in (1, 2, 3)],
    ("dpmpp_2m", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver": "midpoint"}, 2),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver": "heun"}, 2),
    # Third order but for half of the term of third order that k-diffusion leaves out.
    ("dpmpp_3m_sde", {"eta": 0.0}, 2),
]
UNIPC = [(order, solver) for order in (1, 2, 3) for solver in ("bh1", "bh2")]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "order"), SINGLE_STEP)
def test_order(name, options, order, spacing):
    def error(steps):
        levels = _levels(steps, spacing)
        z, exact = _end(SAMPLERS[name](levels, **options), levels)
        return z - exact

    _check_order(error, order, 0.02)


@pytest.mark.parametrize(("spacing", "order"), [("exponential", 2), ("karras", 2), ("uneven", 1)])
def test_order_of_plms(spacing, order):
    """It starts at second order, but its weights are those of even steps in sigma.

    Where steps grow smoothly that costs all above the second order, and elsewhere the second too.
    """

    def error(steps):
        levels = _levels(steps, spacing)
        z, exact = _end(SAMPLERS["plms"](levels), levels)
        return z - exact

    _check_order(error, order, 0.03)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "order"), MULTISTEP)
def test_order_of_multistep_methods(name, options, order, spacing):
    def error(steps):
        levels = _levels(steps, spacing)
        z, exact = _end(SAMPLERS[name](levels, **options), levels, start=3)
        return z - exact

    def start(steps):
        levels = _levels(steps, spacing)
        rows = SAMPLERS[name](levels, **options)
        return _end(rows, levels)[0] - _end(rows, levels, start=3)[0]

    # DEIS is polynomial in log sigma, and where steps are alike in that, its error of third order
    # all but vanishes here beside that of fourth and rounding.
    if (name, order) != ("deis", 3) or spacing == "karras":
        _check_order(error, order, 0.06)
    _check_order(start, 2, 0.1)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("order", "solver"), UNIPC)
def test_order_of_unipc(order, solver, spacing):
    """Corrected, a step of order p is of order p + 1, and the first step, so, of second."""
    rows = functools.partial(SAMPLERS["unipc"], order=order, solver=solver)

    def inner(steps, start=3):
        levels = _levels(steps, spacing)
        z, exact = _end(rows(levels), levels, stop=steps - 3, start=start)
        return z - exact

    def whole(steps):
        levels = _levels(steps, spacing)
        z, exact = _end(rows(levels), levels)
        return z - exact

    _check_order(inner, order + 1, 0.06)
    if order < 3:
        _check_order(functools.partial(inner, start=0), order + 1, 0.06)
    # The last step is one of first order that nothing corrects: wrong by h^2.
    _check_order(whole, 2, 0.06)


# Stochastic samplers, as moments: every row is linear in what it knows.


def _matrices(row, a, answer):
    """Returns what a row makes of (z, base, h1, h2, h3, 1), [6, 6], without its noise."""
    z, base, h1, h2, h3, one = np.eye(6)
    x0_z, x0_1, eps_z, eps_1 = answer(a)
    x0, eps = x0_z * z + x0_1 * one, eps_z * z + eps_1 * one
    history = row.from_h1 * h1 + row.from_h2 * h2 + row.from_h3 * h3
    base = row.from_z * z + row.from_base * base + row.from_x0 * x0 + history
    now = row.base * base + row.x0 * x0 + row.eps * eps + row.h1 * h1 + row.h2 * h2 + row.h3 * h3
    if row.keep_x0 or row.keep_eps:
        h1, h2, h3 = row.keep_x0 * x0 + row.keep_eps * eps, h1, h2
    return np.stack([now, base, h1, h2, h3, one])


def _best_answer(a):
    gain = np.sqrt(a) * S**2 / (a * S**2 + 1 - a)
    x0 = gain, MU * (1 - gain * np.sqrt(a))
    return *x0, *((i - np.sqrt(a) * x) / np.sqrt(1 - a) for i, x in zip((1, 0), x0, strict=True))


def _moments(rows, levels, answer=_best_answer):
    """Returns mean and standard deviation of z at the end, from the exact z at the first level."""
    a = levels.alpha_bar[0]
    mean, covariance = np.array([np.sqrt(a) * MU, 0, 0, 0, 0, 1]), np.zeros((6, 6))
    covariance[0, 0] = a * S**2 + 1 - a
    log_snr = np.log(TABLE) - np.log1p(-TABLE)
    for i in range(len(rows)):
        row = jax.tree.map(lambda x: x[i], rows)  # noqa: B023
        a = 1 / (1 + np.exp(-np.interp(row.t, np.arange(len(TABLE)), log_snr)))
        matrix = _matrices(row, a, answer)
        mean, covariance = matrix @ mean, matrix @ covariance @ matrix.T
        covariance[0, 0] += row.noise**2
    return mean[0], np.sqrt(covariance[0, 0])


# With the order at which the standard deviation approaches that of the data.
STOCHASTIC = [
    ("ddpm", {"variance": "posterior"}, 1),
    ("ddpm", {"variance": "beta"}, 1),
    ("ddim", {"eta": 0.5}, 1),
    ("ddim", {"eta": 1.0}, 1),
    ("euler_ancestral", {}, 1),
    ("dpmpp_2s_ancestral", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.5}, 2),
    ("dpmpp_2m_sde", {"eta": 1.0}, 2),
    ("dpmpp_2m_sde", {"eta": 1.0, "solver": "heun"}, 2),
    ("dpmpp_3m_sde", {"eta": 0.5}, 2),
    ("dpmpp_3m_sde", {"eta": 1.0}, 2),
]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "order"), STOCHASTIC)
def test_mean_is_that_of_the_data_and_the_deviation_approaches_it(name, options, order, spacing):
    errors = []
    for steps in (128, 256, 512):
        levels = _levels(steps, spacing)
        mean, std = _moments(SAMPLERS[name](levels, **options), levels)
        a = levels.alpha_bar[-1]
        # The mean moves as every path of the flow does if all weights of a row fit together.
        assert mean == pytest.approx(np.sqrt(a) * MU, abs=1e-9)
        errors.append(std / np.sqrt(a * S**2 + 1 - a) - 1)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert abs(orders[-1] - order) < 0.05, f"measured {orders}, expected {order}"
    assert abs(errors[-1]) < 0.01


@pytest.mark.parametrize(("name", "options", "order"), STOCHASTIC)
def test_samples_have_the_moments_of_their_table(name, options, order):
    """In float32 and with the noise that is really drawn."""
    levels = _levels(20, "karras")
    rows = SAMPLERS[name](levels, **options)
    mean, std = _moments(rows, levels)
    a = levels.alpha_bar[0]
    indices = jnp.arange(4)
    z_T = np.sqrt(a) * MU + np.sqrt(a * S**2 + 1 - a) * initial_noise(3, indices, (5000,))
    state, keys = initial_state(z_T), image_keys(3, indices)
    z = np.asarray(_run(jnp.asarray(TABLE), state, padded(rows, 40), keys, 0, len(rows)), float)
    # Four standard errors of the two estimates.
    assert abs(z.mean() - mean) < 4 * std / np.sqrt(z.size)
    assert abs(z.std() / std - 1) < 4 / np.sqrt(2 * z.size)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm_of_a_consistency_function_draws_the_data(steps):
    """With f(z, t) = the end of the flow through z, however few the steps are."""

    def consistency(a):
        slope = S / np.sqrt(a * S**2 + 1 - a)
        return slope, MU * (1 - slope * np.sqrt(a)), 0, 0

    levels = make_levels(Schedule(jnp.asarray(TABLE, jnp.float32)), steps, "lcm")
    mean, std = _moments(SAMPLERS["lcm"](levels), levels, consistency)
    assert mean == pytest.approx(MU, abs=1e-4)
    assert std == pytest.approx(S, rel=1e-4)


def test_every_sampler_is_measured():
    measured = {case[0] for case in (*SINGLE_STEP, *MULTISTEP, *STOCHASTIC)}
    assert measured | {"plms", "unipc", "lcm"} == set(SAMPLERS)
