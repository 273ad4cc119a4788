"""The classifier's heads, against NumPy, and its size at full width."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models.latent_classifier import POOLS, AttentionPool, LatentClassifier

SMALL = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 4}
Z_T = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
T = np.array([0.0, 41.5, 999.0], np.float32)


def shapes_of(model, *args):
    return jax.eval_shape(model.init, jax.random.key(0), *args)["params"]


def noise(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(x.dtype), shapes)


# The first two were counted in PyTorch (facts 4.4): those of LDM-8-G's classifier, whose latents
# are 32x32x4. The others are the second less its head, plus two linear layers on the means of all
# maps (three levels of two blocks, two downsamplings, first and middle) and the norm between them.
TRUNK = 108_388_840 - 2 * 1024 - 1024 * 1000 - 1000
FEATURES = 256 * 4 + 512 * 3 + 1024 * 3
SPATIAL = TRUNK + FEATURES * 2048 + 2048 + 2048 * 1000 + 1000
SIZES = {
    "attention": 111_604_200,
    "adaptive": 108_388_840,
    "spatial": SPATIAL,
    "spatial_v2": SPATIAL + 2 * 2048,
}


@pytest.mark.parametrize("pool", POOLS)
def test_full_size(pool):
    model = LatentClassifier(
        1000, 256, (1, 2, 4), attention_factors=(4, 2, 1), num_head_channels=32, pool=pool
    )
    shapes = shapes_of(model, jnp.zeros((1, 32, 32, 4)), jnp.zeros(1))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == SIZES[pool]


def group_norm(x, groups, scale, bias, eps=1e-5):
    b, *sizes, c = x.shape
    y = x.reshape(b, -1, groups, c // groups)
    mean, var = y.mean((1, 3), keepdims=True), y.var((1, 3), keepdims=True)
    return ((y - mean) / np.sqrt(var + eps)).reshape(b, *sizes, c) * scale + bias


def silu(x):
    return x / (1 + np.exp(-x))


def linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def head_by_hand(pool, params, maps, groups):
    """Returns the logits from the outputs of all blocks, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    last = maps[-1]
    if pool.startswith("spatial"):
        x = linear(params["hidden"], np.concatenate([m.mean((1, 2)) for m in maps], -1))
        if pool == "spatial":
            return linear(params["out"], np.maximum(x, 0))
        return linear(params["out"], silu(group_norm(x, 32, **params["norm_out"])))
    x = silu(group_norm(last, groups, **params["norm_out"]))
    if pool == "adaptive":
        return linear(params["out"], x.mean((1, 2)))
    return attention_by_hand(params["pool"], x, 2)


def attention_by_hand(params, x, heads):
    b, h, w, c = x.shape
    tokens = x.reshape(b, h * w, c)
    tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], 1) + params["positions"]

    def split(name):
        return linear(params[name], tokens).reshape(b, -1, heads, c // heads)

    q, k, v = split("to_q"), split("to_k"), split("to_v")
    logits = np.einsum("bhd,bmhd->bhm", q[:, 0], k) / np.sqrt(c // heads)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear(params["to_out"], np.einsum("bhm,bmhd->bhd", weights, v).reshape(b, c))


@functools.cache
def model_and_params(pool):
    model = LatentClassifier(5, **SMALL, attention_factors=(2,), num_heads=2, pool=pool)
    return model, noise(shapes_of(model, Z_T, T))


@pytest.mark.parametrize("pool", POOLS)
def test_a_head_reads_the_blocks_as_the_reference_does(pool):
    model, params = model_and_params(pool)

    @jax.jit
    def run(params):
        return model.apply(
            {"params": params}, Z_T, T, capture_intermediates=True, mutable=["intermediates"]
        )

    logits, state = run(params)
    assert (logits.shape, logits.dtype) == ((3, 5), jnp.float32)
    # The reference's input blocks: the first convolution, each residual block with its attention,
    # each downsampling; then the middle.
    names = ["conv_in", "down_0_res_0", "down_0_downsample", "down_1_attn_0", "mid_res_1"]
    found = state["intermediates"]
    maps = [np.asarray(found[name]["__call__"][0], np.float64) for name in names]
    expected = head_by_hand(pool, params, maps, SMALL["num_groups"])
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-5)


def test_the_adaptive_head_starts_at_zero_and_the_others_do_not():
    def init(pool, head):
        model, _ = model_and_params(pool)
        # Only these leaves are computed; the draws of all others are pruned.
        return jax.jit(lambda key: model.init(key, Z_T, T)["params"][head])(jax.random.key(0))

    out = init("adaptive", "out")
    assert not np.any(out["kernel"])
    assert not np.any(out["bias"])
    pool = init("attention", "pool")
    assert np.any(pool["to_out"]["kernel"])
    assert pool["positions"].shape == (1 + 4, 16)
    assert np.std(pool["positions"]) == pytest.approx(16**-0.5, rel=0.35)


def test_classes_and_half_precision():
    model, params = model_and_params("attention")
    assert model.num_classes == 5
    half = model.clone(dtype=jnp.bfloat16)
    logits = jax.jit(lambda p: half.apply({"params": p}, Z_T, T))(params)
    expected = jax.jit(lambda p: model.apply({"params": p}, Z_T, T))(params)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())


def test_an_unknown_pool_is_an_error():
    text = "pool: got 'max'. Legal: adaptive, attention, spatial, spatial_v2."
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        LatentClassifier(5, **SMALL, pool="max")


def test_an_illegal_size_is_an_error():
    model, _ = model_and_params("attention")
    with pytest.raises(UserError, match="latent size: got 5x4, expected multiples of 2"):
        shapes_of(model, jnp.zeros((1, 5, 4, 2)), jnp.zeros(1))


def test_a_pool_with_positions_takes_one_size():
    pool = AttentionPool(3, 2)
    params = noise(shapes_of(pool, jnp.zeros((1, 2, 3, 4))))
    x = np.random.default_rng(2).normal(size=(2, 2, 3, 4))
    expected = attention_by_hand(params, x, 2)
    got = jax.jit(lambda p, x: pool.apply({"params": p}, x))(params, x.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    text = (
        "attention pool: got a map of 9 pixels, expected 6. Legal: latents of the size that it "
        "was trained on, or another pool."
    )
    # JAX appends a line of its own to what is raised while it traces.
    with pytest.raises(UserError, match=re.escape(text)):
        jax.eval_shape(lambda p: pool.apply({"params": p}, jnp.zeros((1, 3, 3, 4))), params)
