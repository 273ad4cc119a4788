import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.normalization import EPS_BERT, group_norm, layer_norm


def numpy_group_norm(x, groups, eps):
    b, h, w, c = x.shape
    y = x.astype(np.float64).reshape(b, h * w, groups, c // groups)
    mean, var = y.mean((1, 3), keepdims=True), y.var((1, 3), keepdims=True)
    return ((y - mean) / np.sqrt(var + eps)).reshape(x.shape)


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_group_norm_with_small_variance_shows_its_epsilon(eps):
    x = 2e-3 * np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    norm = group_norm(4, eps, name="norm")
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, numpy_group_norm(x, 4, eps), rtol=1e-4, atol=1e-5)


def test_group_norm_survives_a_large_mean():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32) + 3000
    norm = group_norm(2, 1e-5, name="norm")
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, numpy_group_norm(x, 2, 1e-5), atol=2e-3)


def test_group_norm_has_float32_statistics_and_casts_back():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 4)) + 8, jnp.bfloat16)
    norm = group_norm(1, 1e-5, name="norm", dtype=jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x)
    y = norm.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["scale"].dtype == jnp.float32
    expected = numpy_group_norm(np.asarray(x, np.float32), 1, 1e-5)
    # One rounding to bfloat16 (relative 2^-9); statistics in bfloat16 would be off by percents.
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(("given", "eps"), [({}, 1e-5), ({"eps": EPS_BERT}, 1e-12)])
def test_layer_norm_with_small_variance_shows_its_epsilon(given, eps):
    x = 2e-3 * np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    norm = layer_norm(name="norm", **given)
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + eps), rtol=1e-4, atol=1e-5)
