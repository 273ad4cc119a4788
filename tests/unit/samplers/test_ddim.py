import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_x0
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import Levels, make_levels
from ldm_jax.samplers.base import initial_state, step
from ldm_jax.samplers.ddim import ddim, ddim_sigma
from ldm_jax.samplers.ddpm import ddpm

RNG = np.random.default_rng(0)
Z, X0 = RNG.normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 2)
NOISE = np.stack([jax.random.normal(key, (3, 3, 1)) for key in KEYS])


def _update(sampler, alpha_bar, alpha_bar_next, **options):
    """Returns z after the single row of a run from one level to the other."""
    levels = Levels(np.array([3.0]), np.array([alpha_bar, alpha_bar_next]), np.array([alpha_bar]))
    row = jax.tree.map(lambda x: jnp.float32(x[0]), sampler(levels, **options))
    prediction = from_x0(jnp.asarray(X0), jnp.asarray(Z), jnp.float32(alpha_bar))
    return jax.jit(step)(initial_state(jnp.asarray(Z)), prediction, row, KEYS).z


def test_reference_golden_numbers():
    """Facts sheet 6.2: S = 50, eta = 1; there the first entry is the least noisy step."""
    levels = make_levels(make_schedule(), 50, "reference")
    # The reference holds float32 tables and computes sigma in float64, as we do.
    a, a_prev = levels.alpha_bar[:-1][::-1], levels.alpha_bar[1:][::-1]
    np.testing.assert_allclose(a[[0, 49]], [0.99699444, 0.00020196], atol=6e-9)
    np.testing.assert_allclose(a_prev[0], 0.99849999, atol=6e-9)
    golden = [0.02743205, 0.05244253, 0.56113832]
    np.testing.assert_allclose(ddim_sigma(a, a_prev, 1.0)[[0, 1, 49]], golden, atol=1.2e-8)
    rows = ddim(levels, eta=1.0)
    np.testing.assert_allclose(rows.noise[::-1][[0, 1, 49]], golden, atol=1.2e-8)
    assert rows.noise.dtype == np.float64


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_one_step_is_equation_12(eta):
    a, a_next = 0.3, 0.6
    eps = (Z - np.sqrt(a) * X0) / np.sqrt(1 - a)
    sigma = eta * np.sqrt((1 - a_next) / (1 - a)) * np.sqrt(1 - a / a_next)
    expected = np.sqrt(a_next) * X0 + np.sqrt(1 - a_next - sigma**2) * eps + sigma * NOISE
    np.testing.assert_allclose(_update(ddim, a, a_next, eta=eta), expected, atol=1e-5)


def test_eta_one_is_ancestral_sampling():
    expected = _update(ddpm, 0.2, 0.7)
    np.testing.assert_allclose(_update(ddim, 0.2, 0.7, eta=1.0), expected, atol=1e-5)


def test_without_noise_it_is_euler_in_sigma():
    following = signal([2, 1, 0])
    rows = ddim(levels_of(3, 2, 1, 0))
    assert_rows(rows, t=[2, 1, 0], from_z=1, x0=following, eps=following * [2, 1, 0])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_to_clean_data_returns_x0_without_noise(eta):
    np.testing.assert_array_equal(_update(ddim, 0.3, 1.0, eta=eta), X0)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_illegal_eta(eta):
    with pytest.raises(UserError, match=rf"sampler 'ddim' eta: got {eta}\. Legal: 0 to 1\."):
        ddim(levels_of(1, 0), eta)
