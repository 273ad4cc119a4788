import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models.inception import ConvBatchNorm, Inception, InceptionBlock, resize

pytestmark = pytest.mark.usefixtures("optimized")

MODEL = Inception(size=75)
SHAPE = (2, 40, 56, 3)


@functools.cache
def shapes():
    image = jax.ShapeDtypeStruct(SHAPE, jnp.uint8)
    return jax.eval_shape(MODEL.init, jax.random.key(0), image)["params"]


@functools.cache
def params():
    """Returns weights that keep the features' size, with statistics that are not 0 and 1."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            noise = rng.standard_normal(leaf.shape, np.float32)
            return noise * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes())


def images(seed, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@jax.jit
def look_inside(params, images):
    """Returns what the network says, and the maps of all branches of one layer."""

    def kept(module, _):
        return module.name == "branch1x1"

    return MODEL.apply({"params": params}, images, capture_intermediates=kept)


def describe(params, images):
    return look_inside(params, images)[0]


# The network.


def test_features_and_logits():
    features, logits, _ = describe(params(), images(1))
    assert (features.shape, features.dtype) == ((2, 2048), jnp.float32)
    assert (logits.shape, logits.dtype) == ((2, 1008), jnp.float32)
    assert (features >= 0).all()
    assert np.abs(features[0] - features[1]).max() > 1e-3
    expected = np.asarray(features, np.float64) @ params()["fc"]["kernel"]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_spatial_features_are_the_first_channels_of_one_branch():
    output, seen = look_inside(params(), images(1))
    (branch,) = seen["intermediates"]["Mixed_6d"]["branch1x1"]["__call__"]
    assert branch.shape == (2, 3, 3, 192)
    np.testing.assert_array_equal(output.spatial, branch[..., :7].reshape(2, 63))
    assert np.abs(output.spatial[0] - output.spatial[1]).max() > 1e-3


def test_there_are_as_many_spatial_features_as_in_adm():
    variables = {"params": shapes()}
    assert jax.eval_shape(Inception().apply, variables, images(1)).spatial.shape == (2, 2023)


def test_number_of_parameters():
    # Keras gives 21 802 784 for InceptionV3 without its top, whose batch norms have no scales.
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes()))
    assert total == 21_802_784 + 17_216 + 2048 * 1008


def test_grey_images_count_as_three_equal_channels():
    grey = images(1, (*SHAPE[:3], 1))
    expected = describe(params(), grey.repeat(3, -1)).features
    np.testing.assert_allclose(describe(params(), grey).features, expected, rtol=1e-5)


def test_images_do_not_see_each_other():
    x = images(1)
    expected = describe(params(), x).features[::-1]
    np.testing.assert_allclose(describe(params(), x[::-1]).features, expected, rtol=1e-5)


def test_all_factors_are_float32():
    # Without this, TPUs multiply in bfloat16, and the score depends on the machine.
    text = jax.jit(MODEL.apply).lower({"params": shapes()}, images(1)).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
    assert len(products) == 94 + 1
    assert all(product.count("HIGHEST") == 2 for product in products)


# Its layers, against NumPy.


def test_batch_norm_uses_the_stored_statistics():
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 1)).astype(np.float32)
    norm = {"scale": [2.0], "bias": [0.5], "mean": [0.25], "var": [0.04]}
    weights = {"conv": {"kernel": np.ones((1, 1, 1, 1))}}
    weights["bn"] = {name: np.array(value, np.float32) for name, value in norm.items()}
    y = ConvBatchNorm(1, (1, 1)).apply({"params": weights}, x)
    expected = np.maximum(2 * (x - 0.25) / math.sqrt(0.04 + 1e-3) + 0.5, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def identity(kernel):
    """Returns the parameters of a convolution whose batch norm does nothing."""
    one = np.ones(1, np.float32)
    norm = {"scale": one * math.sqrt(1 + 1e-3), "bias": 0 * one, "mean": 0 * one, "var": one}
    return {"conv": {"kernel": np.array(kernel, np.float32)[..., None, None]}, "bn": norm}


@pytest.mark.parametrize(("pool", "reduce"), [("average", np.mean), ("max", np.max)])
def test_pools_leave_the_padding_out(pool, reduce):
    x = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    block = InceptionBlock((("branch_pool", ((1, (1, 1)),)),), pool)
    y = block.apply({"params": {"branch_pool": identity([[1]])}}, x[None, :, :, None])
    expected = [
        [reduce(x[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]) for j in range(5)]
        for i in range(4)
    ]
    np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-5)


def test_halving_block_ends_in_its_own_maximum():
    x = np.random.default_rng(0).random((7, 6)).astype(np.float32)
    kernel = np.arange(9.0).reshape(3, 3)
    block = InceptionBlock((("branch3x3", ((1, (1, 1)), (1, (3, 3)))),), "stride")
    weights = {"branch3x3_1": identity([[1]]), "branch3x3_2": identity(kernel)}
    y = block.apply({"params": weights}, x[None, :, :, None])
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))[::2, ::2]
    expected = [(windows * kernel[None, None]).sum((2, 3)), windows.max((2, 3))]
    np.testing.assert_allclose(y[0], np.stack(expected, -1), rtol=1e-5)


def test_fork_sees_the_same_map_twice():
    x = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    block = InceptionBlock((("x", ((1, (1, 3), (3, 1)),)),), "average")
    weights = {"xa": identity([[1, 2, 3]]), "xb": identity([[1], [2], [3]])}
    y = block.apply({"params": weights}, x[None, :, :, None])
    padded = np.pad(x, 1)
    row = padded[1:-1, :-2] + 2 * x + 3 * padded[1:-1, 2:]
    column = padded[:-2, 1:-1] + 2 * x + 3 * padded[2:, 1:-1]
    np.testing.assert_allclose(y[0], np.stack([row, column], -1), rtol=1e-5)


# The resize.


@pytest.mark.parametrize("old", [(1, 3), (5, 8), (23, 40)], ids=str)
def test_resize_is_that_of_tensorflow_1(old):
    x = np.random.default_rng(0).uniform(0, 255, (*old, 2)).astype(np.float32)
    expected = np.empty((9, 9, 2))
    for i in range(9):
        for j in range(9):
            y, z = i * old[0] / 9, j * old[1] / 9
            top, left = int(y), int(z)
            bottom, right = min(top + 1, old[0] - 1), min(left + 1, old[1] - 1)
            upper = x[top, left] * (1 - z + left) + x[top, right] * (z - left)
            lower = x[bottom, left] * (1 - z + left) + x[bottom, right] * (z - left)
            expected[i, j] = upper * (1 - y + top) + lower * (y - top)
    got = jax.jit(resize, static_argnums=1)(x[None], 9)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-3)


def test_resize_to_the_same_size_changes_nothing():
    x = np.random.default_rng(0).random((1, 9, 9, 3)).astype(np.float32)
    np.testing.assert_array_equal(resize(x, 9), x)


# Refusals.


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (2, 8, 8, 4),
            jnp.uint8,
            "inception: images: got 4 channels, expected 3. Legal: 1, 3.",
        ),
        (
            (8, 8, 3),
            jnp.uint8,
            "inception: images: got shape (8, 8, 3), expected ('any', 'any', 'any', 'any').",
        ),
        (
            (2, 0, 8, 3),
            jnp.uint8,
            "inception: images: got shape (2, 0, 8, 3), which has no pixels.",
        ),
        (
            (2, 8, 8, 3),
            jnp.float32,
            "inception: images: got float32. Legal: uint8, in [0, 255], as images are stored.",
        ),
    ],
)
def test_refuses_other_images(shape, dtype, message):
    with pytest.raises(UserError) as caught:
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros(shape, dtype))
    assert str(caught.value) == message


def test_refuses_a_size_that_leaves_nothing():
    with pytest.raises(UserError) as caught:
        Inception(size=74)
    assert str(caught.value) == "inception.size: got 74. Legal: 75 or more."
