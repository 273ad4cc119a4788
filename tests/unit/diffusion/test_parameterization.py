import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion import parameterization as p

ALPHA_BAR = np.array([0.95, 0.5, 0.02])
RNG = np.random.default_rng(0)
X0, EPS = RNG.normal(size=(2, 3, 2, 2, 1)).astype(np.float32)
COLUMN = ALPHA_BAR.reshape(3, 1, 1, 1)
Z = (np.sqrt(COLUMN) * X0 + np.sqrt(1 - COLUMN) * EPS).astype(np.float32)
A = jnp.asarray(ALPHA_BAR, jnp.float32)


def test_targets():
    v = np.sqrt(COLUMN) * EPS - np.sqrt(1 - COLUMN) * X0
    np.testing.assert_array_equal(p.training_target("eps", X0, EPS, A), EPS)
    np.testing.assert_array_equal(p.training_target("x0", X0, EPS, A), X0)
    np.testing.assert_allclose(p.training_target("v", X0, EPS, A), v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", p.PARAMETERIZATIONS)
def test_a_perfect_network_recovers_x0_and_eps(kind):
    target = jnp.asarray(p.training_target(kind, X0, EPS, A))
    found = jax.jit(p.to_prediction, static_argnums=0)(kind, target, jnp.asarray(Z), A)
    np.testing.assert_allclose(found.x0, X0, atol=1e-5)
    np.testing.assert_allclose(found.eps, EPS, atol=1e-5)


@pytest.mark.parametrize("kind", p.PARAMETERIZATIONS)
def test_any_output_and_z_stay_consistent(kind):
    """x0 and eps of one prediction always add up to z_t, whatever the network says."""
    output = jnp.asarray(RNG.normal(size=X0.shape), jnp.bfloat16)
    found = p.to_prediction(kind, output, jnp.asarray(Z), A)
    assert found.x0.dtype == found.eps.dtype == jnp.float32
    np.testing.assert_allclose(
        np.sqrt(COLUMN) * found.x0 + np.sqrt(1 - COLUMN) * found.eps, Z, atol=1e-5
    )


def test_from_x0_after_clipping():
    clipped = np.clip(X0, -0.5, 0.5)
    found = p.from_x0(jnp.asarray(clipped), jnp.asarray(Z), A)
    np.testing.assert_allclose(
        found.eps, (Z - np.sqrt(COLUMN) * clipped) / np.sqrt(1 - COLUMN), atol=1e-5
    )
    np.testing.assert_array_equal(found.x0, clipped)


def test_scalar_alpha_bar():
    found = p.to_prediction("eps", jnp.asarray(EPS), jnp.asarray(Z), jnp.float32(0.25))
    np.testing.assert_allclose(found.x0, (Z - np.sqrt(0.75) * EPS) / 0.5, atol=1e-5)


@pytest.mark.parametrize("function", [p.to_prediction, p.training_target])
def test_unknown_kind(function):
    with pytest.raises(UserError, match=r"parameterization: got 'epsilon'.*Legal: eps, x0, v\."):
        function("epsilon", X0, Z, A)
