import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_sigmas import levels_of

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_x0
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import initial_state, step
from ldm_jax.samplers.ddpm import ddpm

RNG = np.random.default_rng(0)
Z, X0 = RNG.normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 2)
NOISE = np.stack([jax.random.normal(key, (3, 3, 1)) for key in KEYS])
FRACTION = RNG.uniform(size=Z.shape).astype(np.float32)


def _update(alpha_bar, alpha_bar_next, variance="posterior", fraction=None):
    """Returns z after the single row of a run from one level to the other."""
    levels = Levels(np.array([3.0]), np.array([alpha_bar, alpha_bar_next]), np.array([alpha_bar]))
    row = jax.tree.map(lambda x: jnp.float32(x[0]), ddpm(levels, variance))
    prediction = from_x0(jnp.asarray(X0), jnp.asarray(Z), jnp.float32(alpha_bar))
    prediction = prediction._replace(variance_fraction=fraction)
    return jax.jit(step)(initial_state(jnp.asarray(Z)), prediction, row, KEYS).z


def _posterior(a, a_next):
    """Returns mean and variance by Bayes' rule."""
    alpha = a / a_next
    variance = 1 / (1 / (1 - a_next) + alpha / (1 - alpha))
    mean = variance * (np.sqrt(a_next) / (1 - a_next) * X0 + np.sqrt(alpha) / (1 - alpha) * Z)
    return mean, variance


def test_one_step_is_bayes_rule_plus_noise_of_the_posterior():
    mean, variance = _posterior(0.3, 0.6)
    np.testing.assert_allclose(_update(0.3, 0.6), mean + np.sqrt(variance) * NOISE, atol=1e-5)


def test_the_larger_variance_is_that_of_the_forward_step():
    mean, _ = _posterior(0.3, 0.6)
    expected = mean + np.sqrt(1 - 0.3 / 0.6) * NOISE
    np.testing.assert_allclose(_update(0.3, 0.6, "beta"), expected, atol=1e-5)


def test_a_learned_variance_lies_between_on_a_logarithmic_scale():
    mean, variance = _posterior(0.3, 0.6)
    logarithm = FRACTION * np.log(1 - 0.3 / 0.6) + (1 - FRACTION) * np.log(variance)
    expected = mean + np.exp(logarithm / 2) * NOISE
    found = _update(0.3, 0.6, "learned", jnp.asarray(FRACTION))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("variance", "fraction"), [("learned", None), ("posterior", FRACTION), ("beta", FRACTION)]
)
def test_a_learned_variance_needs_both_the_option_and_the_model(variance, fraction):
    """Without either the noise is the same everywhere."""
    mean, small = _posterior(0.3, 0.6)
    scale = np.sqrt(0.5 if variance == "beta" else small)
    found = _update(0.3, 0.6, variance, None if fraction is None else jnp.asarray(fraction))
    np.testing.assert_allclose(found, mean + scale * NOISE, atol=1e-5)


@pytest.mark.parametrize("variance", ["posterior", "beta", "learned"])
def test_a_step_to_clean_data_returns_x0_without_noise(variance):
    fraction = jnp.asarray(FRACTION) if variance == "learned" else None
    np.testing.assert_array_equal(_update(0.3, 1.0, variance, fraction), X0)


def test_a_step_between_equal_levels_changes_nothing():
    np.testing.assert_allclose(_update(0.3, 0.3), Z, atol=1e-6)


def test_illegal_variance():
    text = r"sampler 'ddpm' variance: got 'betta'; did you mean 'beta'\? Legal: posterior, beta, l"
    with pytest.raises(UserError, match=text):
        ddpm(levels_of(1, 0), "betta")
