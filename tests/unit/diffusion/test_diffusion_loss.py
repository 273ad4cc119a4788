import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.loss import LOSSES

EXPECTED = {"l1": lambda e: np.abs(e), "l2": lambda e: e**2}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mean_over_all_but_the_batch(name, dtype):
    output, target = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2))
    output, target = jnp.asarray(output, dtype), jnp.asarray(target, jnp.float32)
    loss = jax.jit(LOSSES[name])(output, target)
    error = np.asarray(output, np.float64) - np.asarray(target, np.float64)
    np.testing.assert_allclose(loss, EXPECTED[name](error).mean((1, 2, 3)), rtol=1e-5)
    assert loss.shape == (3,)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize(("name", "expected"), [("l2", 1.0), ("l1", np.sqrt(2 / np.pi))])
def test_first_loss_of_a_network_that_puts_out_zero(name, expected):
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(8, 64, 64, 4)), jnp.float32)
    loss = LOSSES[name](jnp.zeros_like(noise), noise)
    np.testing.assert_allclose(loss.mean(), expected, rtol=0.01)
