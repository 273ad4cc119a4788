import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.parameterization import from_x0
from ldm_jax.diffusion.spacing import Steps
from ldm_jax.samplers.ddpm import ddpm

RNG = np.random.default_rng(0)
Z, X0 = RNG.normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 2)


def _row(alpha_bar, alpha_bar_next):
    return Steps(
        t=jnp.float32(3),
        alpha_bar=jnp.float32(alpha_bar),
        alpha_bar_next=jnp.float32(alpha_bar_next),
        index=jnp.int32(0),
    )


def _update(alpha_bar, alpha_bar_next):
    prediction = from_x0(jnp.asarray(X0), jnp.asarray(Z), jnp.float32(alpha_bar))
    step = _row(alpha_bar, alpha_bar_next)
    z, state = jax.jit(ddpm().update)((), jnp.asarray(Z), prediction, step, KEYS)
    assert state == ()
    return z


def test_one_step_is_bayes_rule_plus_noise_of_the_posterior():
    a, a_next = 0.3, 0.6
    alpha = a / a_next
    variance = 1 / (1 / (1 - a_next) + alpha / (1 - alpha))
    mean = variance * (np.sqrt(a_next) / (1 - a_next) * X0 + np.sqrt(alpha) / (1 - alpha) * Z)
    noise = np.stack([jax.random.normal(key, (3, 3, 1)) for key in KEYS])
    np.testing.assert_allclose(_update(a, a_next), mean + np.sqrt(variance) * noise, atol=1e-5)


def test_a_step_to_clean_data_returns_x0_without_noise():
    np.testing.assert_array_equal(_update(0.3, 1.0), X0)


def test_a_step_between_equal_levels_changes_nothing():
    np.testing.assert_allclose(_update(0.3, 0.3), Z, atol=1e-6)
