"""Rate and distortion of progressive decoding against Gaussian data, where both are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_x0
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.evaluation.likelihood import bound_profile, mean_square
from ldm_jax.evaluation.rate_distortion import cumulative_rate, x0_errors

M, S = 0.3, 0.5
SCHEDULE = make_schedule("cosine", num_timesteps=32)
SHAPE = (48, 64, 64, 1)  # three standard errors of a mean square are below 1 %


def predict(z, t):
    """The best x0 for data N(M, S²)."""
    rows = alpha_bar_at(SCHEDULE, t)
    a = rows[:, None, None, None]
    x0 = M + jnp.sqrt(a) * S**2 / (a * S**2 + 1 - a) * (z - jnp.sqrt(a) * M)
    return from_x0(x0, z, rows)


@pytest.fixture(scope="module")
def x0():
    return jnp.asarray(M + S * np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)


@pytest.fixture(scope="module")
def profile(x0):
    """The profile of all images, in float64, with the better of the fixed variances."""

    def measure(x0, indices):
        return bound_profile(predict, SCHEDULE, x0, 0, indices, variance="beta")

    found = jax.jit(measure)(x0, jnp.arange(len(x0)))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def test_cumulative_rate_by_hand():
    np.testing.assert_allclose(
        cumulative_rate(0.5, np.array([100.0, 4.0, 2.0, 1.0])), [7.5, 3.5, 1.5, 0.5]
    )


def test_the_curve_of_gaussian_data(profile):
    a = np.asarray(SCHEDULE.alpha_bar, np.float64)
    mse = S**2 * (1 - a) / (a * S**2 + 1 - a)
    previous = np.append(1.0, a[:-1])
    beta, left = 1 - a / previous, (1 - previous) / (1 - a)
    c_x0 = np.sqrt(previous) * beta / (1 - a)
    with np.errstate(divide="ignore"):  # of t = 0, which no rate has
        gain = (c_x0**2 * mse / beta + left - 1 - np.log(left)) / 2
    prior = (a[-1] * (M**2 + S**2 - 1) - a[-1] - np.log1p(-a[-1]) + a[-1]) / 2
    expected = np.array([prior + gain[t + 1 :].sum() for t in range(len(a))]) / np.log(2)
    found = cumulative_rate(profile.prior.mean(), profile.terms.mean(0))
    standard = np.sqrt(2 / np.prod(SHAPE))
    # Each rate is a sum of terms of this relative error, so that their sum's is no larger.
    np.testing.assert_allclose(found, expected, rtol=3 * standard, atol=1e-6)
    distortion = np.sqrt(profile.x0_mse.mean(0))
    # None of 32 exceeds 4.5 standard errors, which the root halves.
    np.testing.assert_allclose(distortion, np.sqrt(mse), rtol=4.5 * standard / 2)
    assert (np.diff(found) <= 0).all()


def test_it_lies_above_shannon_s_curve_and_near_it(profile):
    """No code of N(M, S²) at distortion D is below log(S² / D) / 2; many small steps come near."""
    rate = cumulative_rate(profile.prior.mean(), profile.terms.mean(0))
    excess = rate - np.log2(S**2 / profile.x0_mse.mean(0)) / 2
    assert (excess > -0.01).all()
    assert excess.max() < 0.04  # 0.027 by the formulas above


def test_chosen_timesteps_see_the_noise_of_the_profile(x0, profile):
    few, chosen = x0[:4], (25, 3)

    def measure(x0, indices):
        return x0_errors(
            predict,
            SCHEDULE,
            x0,
            0,
            indices,
            chosen,
            lambda x0_hat: mean_square(2 * x0, 2 * x0_hat),
        )

    found = jax.jit(measure)(few, jnp.arange(4))
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found, 4 * profile.x0_mse[:4, chosen], rtol=1e-5)


def test_errors():
    with pytest.raises(UserError) as error:
        x0_errors(predict, SCHEDULE, jnp.zeros(SHAPE), 0, jnp.arange(48), (0, 32), jnp.sum)
    assert str(error.value) == "rate_distortion timesteps: got 32. Legal: 0 to 31."
