import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion import process
from ldm_jax.diffusion.schedule import alpha_bars, make_schedule

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


def test_alpha_bar_at_integers_and_between():
    at = jax.jit(process.alpha_bar_at)
    t = jnp.arange(1000)
    np.testing.assert_array_equal(at(SCHEDULE, t), SCHEDULE.alpha_bar)
    np.testing.assert_array_equal(at(SCHEDULE, t.astype(jnp.float32)), SCHEDULE.alpha_bar)
    between = at(SCHEDULE, jnp.array([10.25], jnp.float32))
    np.testing.assert_allclose(between, [0.75 * TABLE[10] + 0.25 * TABLE[11]], rtol=1e-6)


def test_per_example():
    x = jnp.zeros((2, 3, 4, 5))
    assert process.per_example(jnp.ones(2), x).shape == (2, 1, 1, 1)
    assert process.per_example(jnp.ones(()), x).shape == ()
