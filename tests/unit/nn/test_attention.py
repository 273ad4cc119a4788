import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.nn.attention import (
    GEGLU,
    Attention,
    FeedForward,
    SelfAttentionBlock,
    SpatialTransformer,
    TransformerBlock,
    attend,
    attend_by_heads,
    check_attention,
)

gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_attend(q, k, v):
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", np.float32(0))


def numpy_attention(p, x, context, heads):
    q, k, v = dense(x, p["to_q"]), dense(context, p["to_k"]), dense(context, p["to_v"])
    q, k, v = (y.reshape(*y.shape[:2], heads, -1) for y in (q, k, v))
    return dense(numpy_attend(q, k, v).reshape(*x.shape[:2], -1), p["to_out"])


def init(module, *args):
    """Returns variables that are all noise, and the parameters in them."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    rng = np.random.default_rng(3)
    noise = jax.tree.map(lambda x: 0.4 * rng.normal(size=x.shape).astype(x.dtype), shapes)
    return noise, noise["params"]


def test_attend_equals_numpy():
    q, k, v = normal(2, 5, 3, 4), normal(2, 7, 3, 4, seed=1), normal(2, 7, 3, 4, seed=2)
    y = jax.jit(attend, static_argnums=3)(q, k, v, "xla")
    np.testing.assert_allclose(y, numpy_attend(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masked_keys_are_as_if_they_were_not_there(dtype):
    q, k, v = normal(2, 5, 3, 4), normal(2, 7, 3, 4, seed=1), normal(2, 7, 3, 4, seed=2)
    seen = np.array([[True, False, True, True, False, False, True], [True] * 7])
    types = [jnp.asarray(x, dtype) for x in (q, k, v)]
    y = jax.jit(lambda *args: attend(*args, "xla", mask=jnp.asarray(seen)))(*types)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 4e-2
    for row, keys in enumerate(seen):
        rows = slice(row, row + 1)
        expected = numpy_attend(q[rows], k[rows][:, keys], v[rows][:, keys])
        np.testing.assert_allclose(np.asarray(y[rows], "f"), expected, atol=tolerance)


def test_both_forms_of_attention_have_one_value_and_one_gradient():
    q, k, v = normal(2, 6, 3, 4), normal(2, 5, 3, 4, seed=1), normal(2, 5, 3, 4, seed=2)

    def gradients(f):
        return jax.grad(lambda *args: jnp.sin(f(*args)).sum(), (0, 1, 2))(q, k, v)

    def fused(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    np.testing.assert_allclose(attend_by_heads(q, k, v), fused(q, k, v), atol=1e-6)
    for a, b in zip(gradients(attend_by_heads), gradients(fused), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_plain_attention_has_a_forward_derivative():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 3, 2, 4)) for i in range(3))
    _, tangent = jax.jvp(lambda q: attend(q, k, v, "xla"), (q,), (v,))
    moved = [attend(q + step * v, k, v, "xla") for step in (-1e-2, 1e-2)]
    np.testing.assert_allclose(tangent, (moved[1] - moved[0]) / 2e-2, atol=1e-3)


def test_softmax_is_float32_for_bfloat16_inputs():
    # Logits of 300 and 299 are both 300 in bfloat16; only float32 tells them apart.
    q = jnp.full((1, 1, 1, 1), 1.0, jnp.bfloat16)
    k = jnp.array([100.0, 100.5], jnp.bfloat16).reshape(1, 2, 1, 1)
    v = jnp.array([0.0, 1.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    expected = 1 / (1 + np.exp(-3 * 0.5))
    y = attend(3 * q, k, v, "xla")
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32).item(), expected, atol=4e-3)


def test_cross_attention_equals_numpy_and_has_biases_only_at_the_output():
    x, context = normal(2, 5, 6), normal(2, 3, 4, seed=1)
    module = Attention(num_heads=2, head_dim=8)
    variables, params = init(module, x, context)
    assert {k: sorted(v) for k, v in params.items()} == {
        "to_q": ["kernel"],
        "to_k": ["kernel"],
        "to_v": ["kernel"],
        "to_out": ["bias", "kernel"],
    }
    assert params["to_k"]["kernel"].shape == (4, 16)
    y = jax.jit(module.apply)(variables, x, context)
    np.testing.assert_allclose(y, numpy_attention(params, x, context, 2), rtol=1e-4, atol=1e-4)


def test_self_attention_block_equals_numpy():
    x = normal(2, 3, 4, 6)
    module = SelfAttentionBlock(num_heads=3, eps=1e-5, num_groups=2)
    variables, params = init(module, x)
    assert all("bias" in layer for layer in params["attn"].values())
    y = x.reshape(2, 12, 2, 3)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + 1e-5)
    y = y.reshape(2, 12, 6) * params["norm"]["scale"] + params["norm"]["bias"]
    y = numpy_attention(params["attn"], y, y, 3).reshape(x.shape)
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), x + y, rtol=1e-4, atol=1e-4)


def test_geglu_equals_numpy_with_exact_gelu():
    x = 2 * normal(2, 3, 4)
    variables, params = init(GEGLU(), x)
    expected = dense(dense(x, params["value"]) * gelu(dense(x, params["gate"])), params["out"])
    y = GEGLU().apply(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert params["gate"]["kernel"].shape == (4, 16)


def test_feed_forward_equals_numpy_with_exact_gelu():
    x = 2 * normal(2, 3, 4)
    variables, params = init(FeedForward(), x)
    expected = dense(gelu(dense(x, params["hidden"])), params["out"])
    np.testing.assert_allclose(FeedForward().apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p["scale"] + p["bias"]


def numpy_transformer_block(p, x, context, heads):
    y = layer_norm(x, p["norm_self"])
    x = x + numpy_attention(p["self_attn"], y, y, heads)
    y = layer_norm(x, p["norm_cross"])
    x = x + numpy_attention(p["cross_attn"], y, y if context is None else context, heads)
    y, ff = layer_norm(x, p["norm_ff"]), p["ff"]
    return x + dense(dense(y, ff["value"]) * gelu(dense(y, ff["gate"])), ff["out"])


@pytest.mark.parametrize("with_context", [True, False])
def test_transformer_block_is_self_then_cross_then_feed_forward(with_context):
    x = normal(2, 5, 6)
    context = normal(2, 3, 4, seed=1) if with_context else None
    module = TransformerBlock(num_heads=2)
    variables, params = init(module, x, context)
    expected = numpy_transformer_block(params, x, context, 2)
    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, x, context), expected, rtol=2e-4, atol=2e-4
    )


def test_spatial_transformer_is_a_residual_over_row_major_tokens():
    x, context = normal(1, 2, 3, 4), normal(1, 3, 5, seed=1)
    module = SpatialTransformer(num_heads=2, depth=2, num_groups=2)
    variables, params = init(module, x, context)
    y = x.reshape(1, 6, 2, 2)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + 1e-6)
    y = y.reshape(1, 6, 4) * params["norm"]["scale"] + params["norm"]["bias"]
    y = dense(y, params["proj_in"])
    for i in range(2):
        y = numpy_transformer_block(params[f"block_{i}"], y, context, 2)
    expected = x + dense(y, params["proj_out"]).reshape(x.shape)
    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, x, context), expected, rtol=5e-4, atol=5e-4
    )


@pytest.mark.parametrize(
    "module", [SpatialTransformer(2, num_groups=2), SelfAttentionBlock(2, 1e-5, 2)]
)
def test_blocks_are_the_identity_at_first(module):
    x = normal(1, 2, 2, 4)
    key = jax.random.key(0, impl="unsafe_rbg")  # compiles quickly
    y = jax.jit(lambda key, x: module.apply(module.init(key, x), x))(key, x)
    np.testing.assert_array_equal(y, x)


def test_cudnn_refuses_float32():
    with pytest.raises(
        UserError, match=r"attention_impl='cudnn': got dtype=float32. Legal: bfloat16"
    ):
        Attention(2, 8, attention_impl="cudnn")
    Attention(2, 8, attention_impl="cudnn", dtype=jnp.bfloat16)


def test_cudnn_refuses_head_widths_that_it_has_no_kernel_for():
    for width in (12, 512):
        with pytest.raises(UserError, match=f"got a head width of {width}. Legal: multiples of 8"):
            check_attention("cudnn", jnp.bfloat16, width)


def test_unknown_implementation_lists_the_legal_ones():
    with pytest.raises(UserError, match=r"attention_impl: got 'flash'.* Legal: auto, xla, cudnn."):
        Attention(2, 8, attention_impl="flash")
