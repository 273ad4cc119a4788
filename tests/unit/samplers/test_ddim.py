import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_x0
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import Steps, make_steps
from ldm_jax.samplers.ddim import ddim, ddim_sigma
from ldm_jax.samplers.ddpm import ddpm

RNG = np.random.default_rng(0)
Z, X0 = RNG.normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 2)
NOISE = np.stack([jax.random.normal(key, (3, 3, 1)) for key in KEYS])


def _update(sampler, alpha_bar, alpha_bar_next):
    prediction = from_x0(jnp.asarray(X0), jnp.asarray(Z), jnp.float32(alpha_bar))
    values = (3.0, alpha_bar, alpha_bar_next)
    step = Steps(*(jnp.float32(value) for value in values), index=jnp.int32(0))
    return jax.jit(sampler.update)((), jnp.asarray(Z), prediction, step, KEYS)[0]


def test_reference_golden_numbers():
    """Facts sheet 6.2: S = 50, eta = 1; there the first entry is the least noisy step."""
    steps = make_steps(make_schedule(), 50, "reference")
    # The reference holds float32 tables and computes sigma in float64.
    a, a_prev = (
        np.asarray(x)[::-1].astype(np.float64) for x in (steps.alpha_bar, steps.alpha_bar_next)
    )
    np.testing.assert_allclose(a[[0, 49]], [0.99699444, 0.00020196], atol=6e-9)
    np.testing.assert_allclose(a_prev[0], 0.99849999, atol=6e-9)
    golden = [0.02743205, 0.05244253, 0.56113832]
    np.testing.assert_allclose(ddim_sigma(a, a_prev, 1.0)[[0, 1, 49]], golden, atol=1.2e-8)
    in_float32 = jax.jit(lambda s: ddim_sigma(s.alpha_bar, s.alpha_bar_next, 1.0))(steps)
    np.testing.assert_allclose(in_float32[::-1][jnp.array([0, 1, 49])], golden, rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_step_is_equation_12(eta):
    a, a_next = 0.3, 0.6
    eps = (Z - np.sqrt(a) * X0) / np.sqrt(1 - a)
    sigma = eta * np.sqrt((1 - a_next) / (1 - a)) * np.sqrt(1 - a / a_next)
    expected = np.sqrt(a_next) * X0 + np.sqrt(1 - a_next - sigma**2) * eps + sigma * NOISE
    np.testing.assert_allclose(_update(ddim(eta), a, a_next), expected, atol=1e-5)


def test_eta_one_is_ancestral_sampling():
    np.testing.assert_allclose(_update(ddim(1.0), 0.2, 0.7), _update(ddpm(), 0.2, 0.7), atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_to_clean_data_returns_x0_without_noise(eta):
    np.testing.assert_array_equal(_update(ddim(eta), 0.3, 1.0), X0)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_illegal_eta(eta):
    with pytest.raises(UserError, match=f"sampler 'ddim' eta: got {eta}. Legal: 0 to 1."):
        ddim(eta)
