import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import process
from ldm_jax.diffusion.schedule import Schedule, alpha_bars, make_schedule
from ldm_jax.diffusion.spacing import Levels

SCHEDULE = make_schedule()
TABLE = alpha_bars()


def _normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_q_sample_is_equation_4():
    x0, eps = _normal(0, (3, 2, 2, 1)), _normal(1, (3, 2, 2, 1))
    t = np.array([0, 500, 999])
    z = jax.jit(process.q_sample)(SCHEDULE, x0, jnp.asarray(t, jnp.int32), eps)
    a = TABLE[t].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(z, np.sqrt(a) * x0 + np.sqrt(1 - a) * eps, rtol=1e-4, atol=1e-6)
    assert z.dtype == jnp.float32


def test_posterior_is_bayes_rule():
    """q(z_s | x0) is the prior, q(z_t | z_s) the likelihood; both Gaussian."""
    x0, z_t = _normal(2, (3, 2, 2, 1)), _normal(3, (3, 2, 2, 1))
    t = np.array([1, 400, 999])
    a_prev, a = (TABLE[i].reshape(3, 1, 1, 1) for i in (t - 1, t))
    alpha = a / a_prev
    precision = 1 / (1 - a_prev) + alpha / (1 - alpha)
    expected = (
        np.sqrt(a_prev) / (1 - a_prev) * x0 + np.sqrt(alpha) / (1 - alpha) * z_t
    ) / precision
    mean, variance, log_variance = jax.jit(process.posterior)(
        SCHEDULE, x0, z_t, jnp.asarray(t, jnp.int32)
    )
    # float32 alpha_bar near 1 leaves four digits of 1 - alpha_bar.
    np.testing.assert_allclose(mean, expected, atol=2e-4)
    np.testing.assert_allclose(variance, 1 / precision, rtol=2e-4)
    np.testing.assert_allclose(log_variance, np.log(1 / precision), atol=2e-4)


def test_posterior_at_zero_is_the_data_with_the_clipped_logarithm():
    x0, z_t = _normal(4, (2, 1, 1, 1)), _normal(5, (2, 1, 1, 1))
    mean, variance, log_variance = process.posterior(SCHEDULE, x0, z_t, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(mean, x0)
    np.testing.assert_array_equal(variance, np.zeros((2, 1, 1, 1)))
    np.testing.assert_allclose(log_variance, np.full((2, 1, 1, 1), -46.0517), rtol=1e-6)


def test_posterior_variance_golden_number():
    variance = process.posterior_coefficients(TABLE[1], TABLE[0])[2]
    assert variance == pytest.approx(7.5251943e-4, rel=1e-7)


def test_posterior_coefficients_at_clean_data_are_exact():
    c_x0, c_z, variance = process.posterior_coefficients(SCHEDULE.alpha_bar, jnp.ones(1000))
    np.testing.assert_array_equal(c_x0, np.ones(1000))
    np.testing.assert_array_equal(c_z, np.zeros(1000))
    np.testing.assert_array_equal(variance, np.zeros(1000))


def test_alpha_bar_at_integers():
    at = jax.jit(process.alpha_bar_at)
    t = jnp.arange(1000)
    np.testing.assert_array_equal(at(SCHEDULE, t), SCHEDULE.alpha_bar)
    np.testing.assert_array_equal(at(SCHEDULE, t.astype(jnp.float32)), SCHEDULE.alpha_bar)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_alpha_bar_between_timesteps_is_linear_in_log_snr(zero_terminal_snr):
    schedule = make_schedule(zero_terminal_snr=zero_terminal_snr)
    table = np.asarray(schedule.alpha_bar, np.float64)
    log_snr = np.log(table / (1 - table))
    found = jax.jit(process.alpha_bar_at)(schedule, jnp.array([10.25, 500.5, 998.5]))
    expected = [
        0.75 * log_snr[10] + 0.25 * log_snr[11],
        0.5 * log_snr[500] + 0.5 * log_snr[501],
        0.5 * log_snr[998] + 0.5 * log_snr[999],
    ]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-np.array(expected))), rtol=2e-6)
    # Not the line of alpha_bar itself: its last entry is small beside the one before.
    if zero_terminal_snr:
        assert found[2] < 0.9 * (table[998] + table[999]) / 2


def test_alpha_bar_at_is_the_inverse_of_the_timestep_at():
    table = np.asarray(SCHEDULE.alpha_bar, np.float64)
    levels = Levels(np.zeros(0), np.ones(1), table)
    t = np.random.default_rng(0).uniform(0, 999, 200)
    with jax.enable_x64(True):
        there = process.alpha_bar_at(Schedule(jnp.asarray(table)), jnp.asarray(t))
        assert there.dtype == jnp.float64
        np.testing.assert_allclose(levels.t_at(np.asarray(there)), t, atol=1e-8)
    # In float32 alpha_bar near 1 has few digits of what differs between timesteps.
    there = jax.jit(process.alpha_bar_at)(SCHEDULE, jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(levels.t_at(np.asarray(there, np.float64)), t, atol=2e-3)


def test_per_example():
    x = jnp.zeros((2, 3, 4, 5))
    assert process.per_example(jnp.ones(2), x).shape == (2, 1, 1, 1)
    assert process.per_example(jnp.ones(()), x).shape == ()
