import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.linear import Conv, Dense


def test_dense_is_an_affine_map():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    variables = Dense(7).init(jax.random.key(0), x)
    kernel, bias = (np.asarray(variables["params"][k]) for k in ("kernel", "bias"))
    y = jax.jit(Dense(7).apply)(variables, x)
    np.testing.assert_allclose(y, x @ kernel + bias.reshape(1, 1, 7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("leaf", ["kernel", "bias"])
def test_conv_initialises_weight_and_bias_uniformly_by_fan_in(leaf):
    params = Conv(512).init(jax.random.key(0), jnp.zeros((1, 3, 3, 4)))["params"]
    bound = 1 / 6  # fan-in 3 * 3 * 4 = 36
    values = np.asarray(params[leaf]).ravel()
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > 0.98 * bound
    np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.06)


def test_dense_initialises_by_fan_in():
    params = Dense(300).init(jax.random.key(0), jnp.zeros((1, 25)))["params"]
    for values in (params["kernel"], params["bias"]):
        assert 0.98 * 0.2 < np.abs(values).max() <= 0.2


def test_zero_init_zeroes_weight_and_bias():
    params = Conv(4, zero_init=True).init(jax.random.key(0), jnp.zeros((1, 3, 3, 2)))["params"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(params))


def test_conv_is_cross_correlation_with_explicit_padding():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 2)).astype(np.float32)
    conv = Conv(3, strides=2, padding=(0, 1))
    variables = conv.init(jax.random.key(1), x)
    kernel, bias = (np.asarray(variables["params"][k]) for k in ("kernel", "bias"))
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = np.zeros((1, 2, 3, 3), np.float32)
    for i in range(2):
        for j in range(3):
            window = padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[0, i, j] = np.einsum("hwi,hwio->o", window, kernel) + bias
    np.testing.assert_allclose(conv.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_compute_type_is_bfloat16_and_parameters_stay_float32():
    x = jnp.ones((1, 4, 4, 2))
    conv = Conv(3, dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert conv.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [1, 2, 3])
def test_maps_smaller_than_the_kernel_are_convolved_alike(size):
    x = jax.random.normal(jax.random.key(0), (3, size, size, 5))
    layer = Conv(7)
    variables = layer.init(jax.random.key(1), x)

    def expected(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + params["bias"].reshape(1, 1, 1, -1)

    def got(params, x):
        return layer.apply({"params": params}, x)

    weights = jax.random.normal(jax.random.key(2), (3, size, size, 7))
    for f in (lambda f: f, lambda f: jax.grad(lambda p, x: jnp.sum(weights * f(p, x)), (0, 1))):
        a, b = f(got)(variables["params"], x), f(expected)(variables["params"], x)
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=2e-5), a, b)
