import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models.lpips import LPIPS, normalize

MODEL = LPIPS()
SHAPE = (2, 16, 18, 3)
KEY = jax.random.key(3)


@functools.cache
def shapes():
    image = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    return jax.eval_shape(MODEL.init, jax.random.key(0), image, image)["params"]


@functools.cache
def params():
    """Returns weights that keep the features' size; heads are positive, as the published ones."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "bias":
            return np.full(leaf.shape, 0.1, np.float32)
        if path[0].key.startswith("head"):
            return rng.random(leaf.shape, np.float32)
        noise = rng.standard_normal(leaf.shape, np.float32)
        return noise * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))

    return jax.tree_util.tree_map_with_path(draw, shapes())


def images(seed, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@jax.jit
def distance(params, x, y):
    return MODEL.apply({"params": params}, x, y)


@jax.jit
def gradient(params, x, y):
    return jax.grad(lambda x: MODEL.apply({"params": params}, x, y).sum())(x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def dropped(rate, deterministic, params, key):
    return LPIPS(dropout=rate).apply(
        {"params": params},
        images(1),
        images(2),
        deterministic=deterministic,
        rngs={"dropout": key},
    )


def test_parameter_count():
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes())) == 14_716_160


def test_layers_have_the_names_of_a_table():
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    layers = {
        f"conv_{i}": {"kernel": (3, 3, before, width), "bias": (width,)}
        for i, (before, width) in enumerate(zip((3, *widths), widths, strict=False))
    }
    layers |= {f"head_{i}": {"kernel": (w, 1)} for i, w in enumerate((64, 128, 256, 512, 512))}
    assert jax.tree.map(lambda leaf: leaf.shape, shapes()) == layers


def test_one_positive_number_per_pair_and_zero_between_equal_images():
    x, y = images(1), images(2)
    d = distance(params(), x, y)
    assert d.shape == (2,)
    assert d.dtype == jnp.float32
    assert (np.asarray(d) > 1e-3).all()
    # Not to the bit, for XLA may sum two items of one batch in different orders.
    np.testing.assert_allclose(distance(params(), x, x), [0, 0], atol=1e-9)
    # Each pair by itself: the partners are those of the same index.
    x[1] = y[1]
    np.testing.assert_allclose(distance(params(), x, y), [d[0], 0], rtol=1e-5, atol=1e-9)


def test_symmetric():
    x, y = images(1), images(2)
    forth, back = distance(params(), x, y), distance(params(), y, x)
    np.testing.assert_allclose(forth, back, rtol=1e-5)


def test_closed_form_of_the_first_tap():
    # The first block hands its input on, plus 5, which keeps the ReLUs out of it; the others
    # give ones whatever they see, so that their distance is 0.
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes())
    weights["conv_0"]["kernel"][1, 1, range(3), range(3)] = 1
    weights["conv_0"]["bias"][:3] = 5
    weights["conv_1"]["kernel"][1, 1, range(3), range(3)] = 1
    for layer in range(2, 13):
        weights[f"conv_{layer}"]["bias"][:] = 1
    for head in range(5):
        weights[f"head_{head}"]["kernel"][:, 0] = np.arange(
            1, 1 + shapes()[f"head_{head}"]["kernel"].shape[0]
        )

    x, y = images(1).astype(np.float64), images(2).astype(np.float64)
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    f, g = ((image - shift) / scale + 5 for image in (x, y))
    u, v = (h / np.linalg.norm(h, axis=-1, keepdims=True) for h in (f, g))
    expected = ((u - v) ** 2 @ np.array([1.0, 2.0, 3.0])).mean((1, 2))
    np.testing.assert_allclose(distance(weights, x, y), expected, rtol=1e-4)


def test_normalize_is_the_formula_and_has_a_finite_gradient_at_zero():
    f = np.random.default_rng(0).standard_normal((5, 7))
    f[1] *= 1e-9
    f[2] = 0
    f = f.astype(np.float32)
    norm = np.sqrt((f.astype(np.float64) ** 2).sum(-1, keepdims=True))
    np.testing.assert_allclose(normalize(f), f / (norm + 1e-10), rtol=1e-5)

    def jacobian(row):
        return jax.jacobian(lambda row: normalize(row[None])[0])(row)

    # (I - u f^T / |f|) / (|f| + eps) with u the result, and I / eps at 0.
    u = f[0] / (norm[0] + 1e-10)
    expected = (np.eye(7) - np.outer(u, f[0]) / norm[0]) / (norm[0] + 1e-10)
    np.testing.assert_allclose(jacobian(f[0]), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jacobian(f[2]), np.eye(7) * 1e10, rtol=1e-5)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_gradient_is_finite_at_constant_images(value):
    constant = np.full(SHAPE, value, np.float32)
    g = gradient(params(), constant, images(2))
    assert np.isfinite(g).all()
    assert np.abs(g).max() > 0
    np.testing.assert_allclose(gradient(params(), constant, constant), 0 * g, atol=1e-7)


@pytest.mark.parametrize("dead", [0, 4, 12])
def test_gradient_is_finite_where_all_features_are_zero(dead):
    weights = {**params(), f"conv_{dead}": {**params()[f"conv_{dead}"]}}
    weights[f"conv_{dead}"]["bias"] = np.full_like(weights[f"conv_{dead}"]["bias"], -1e4)
    g = gradient(weights, images(1), images(2))
    assert np.isfinite(g).all()
    assert np.isfinite(distance(weights, images(1), images(2))).all()


def test_dropout_is_off_by_default_and_when_deterministic():
    expected = distance(params(), images(1), images(2))
    for rate, deterministic in [(0.0, False), (0.5, True)]:
        np.testing.assert_allclose(dropped(rate, deterministic, params(), KEY), expected, rtol=1e-5)


def test_dropout_is_noise_around_the_distance():
    expected = np.asarray(distance(params(), images(1), images(2)))
    draws = np.stack([dropped(0.5, False, params(), jax.random.fold_in(KEY, i)) for i in range(8)])
    deviation = draws.std(0, ddof=1)
    assert (deviation > 1e-4 * expected).all()
    assert (np.abs(draws.mean(0) - expected) < 6 * deviation / math.sqrt(len(draws))).all()
    np.testing.assert_array_equal(
        draws[0], dropped(0.5, False, params(), jax.random.fold_in(KEY, 0))
    )


def test_grey_images_count_as_three_equal_channels():
    x, y = images(1, (2, 16, 18, 1)), images(2, (2, 16, 18, 1))
    expected = distance(params(), x.repeat(3, -1), y.repeat(3, -1))
    np.testing.assert_allclose(distance(params(), x, y), expected, rtol=1e-5)


def test_bfloat16_features_give_float32_distances():
    model = LPIPS(dtype=jnp.bfloat16)
    d = jax.jit(model.apply)({"params": params()}, images(1), images(2))
    assert d.dtype == jnp.float32
    np.testing.assert_allclose(d, distance(params(), images(1), images(2)), rtol=0.02)


def test_pairs_stay_on_their_device():
    # The features of 8 pairs over 8 devices: their differences need nothing from elsewhere.
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    image = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32, sharding=rows)
    weights = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes()
    )
    step = jax.jit(lambda w, x, y: MODEL.apply({"params": w}, x, y), out_shardings=rows)
    text = step.lower(weights, image, image).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in text


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            (2, 16, 16, 4),
            (2, 16, 16, 4),
            "lpips: images: got 4 channels, expected 3. Legal: 1, 3.",
        ),
        (
            (2, 16, 16, 3),
            (2, 16, 16, 1),
            "lpips: second images: got shape (2, 16, 16, 1), expected (2, 16, 16, 3).",
        ),
        (
            (16, 16, 3),
            (16, 16, 3),
            "lpips: images: got shape (16, 16, 3), expected ('any', 'any', 'any', 'any').",
        ),
        (
            (1, 15, 32, 3),
            (1, 15, 32, 3),
            "lpips: images: got 15x32, too small for VGG16's 16-fold downsampling. "
            "Legal: 16 or more on both sides.",
        ),
    ],
)
def test_refuses_other_images(x, y, message):
    with pytest.raises(UserError) as caught:
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros(x), jnp.zeros(y))
    assert str(caught.value) == message


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_refuses_another_rate(rate):
    with pytest.raises(UserError) as caught:
        LPIPS(dropout=rate)
    assert str(caught.value) == f"lpips.dropout: got {rate}. Legal: at least 0 and below 1."
