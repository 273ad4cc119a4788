import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import ClipText
from ldm_jax.core.checks import UserError
from ldm_jax.nn.attention import attend, quick_gelu

FIELDS = {"vocab_size": 11, "length": 5, "dim": 8, "depth": 2, "num_heads": 2}
TOKENS = np.array([[1, 5, 7, 0, 0], [10, 2, 3, 9, 4]], np.int32)
BATCH = {"tokens": jnp.asarray(TOKENS)}
ACTIVATIONS = {
    "gelu": np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


@functools.cache
def variables():
    shapes = jax.eval_shape(ClipText(**FIELDS).init, jax.random.key(0), BATCH)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def encode(activation="quick_gelu"):
    return jax.jit(ClipText(**FIELDS, activation=activation).apply)


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p["scale"] + p["bias"]


def numpy_attend(q, k, v):
    """Causal attention of [b, n, heads, d]."""
    n = q.shape[1]
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits) * np.tril(np.ones((n, n)))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def numpy_encode(tokens, activation):
    p = jax.tree.map(np.asarray, variables()["params"])
    x = p["token_embedding"]["embedding"][tokens] + p["position_embedding"]
    for i in range(2):
        layer = p[f"layer_{i}"]
        y, attn = layer_norm(x, layer["norm_attn"]), layer["attn"]
        q, k, v = (dense(y, attn[n]).reshape(*y.shape[:2], 2, 4) for n in ("to_q", "to_k", "to_v"))
        x = x + dense(numpy_attend(q, k, v).reshape(x.shape), attn["to_out"])
        y = dense(layer_norm(x, layer["norm_ff"]), layer["ff"]["hidden"])
        x = x + dense(ACTIVATIONS[activation](y), layer["ff"]["out"])
    return layer_norm(x, p["norm_out"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_encoding_equals_numpy(activation):
    context = encode(activation)(variables(), BATCH).context
    expected = numpy_encode(TOKENS, activation)
    np.testing.assert_allclose(context, expected, rtol=1e-3, atol=1e-4)
    other = numpy_encode(TOKENS, "gelu" if activation == "quick_gelu" else "quick_gelu")
    assert np.abs(other - expected).max() > 5e-3


def test_quick_gelu_equals_numpy():
    x = np.linspace(-6, 6, 25, dtype=np.float32)
    expected = ACTIVATIONS["quick_gelu"](x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(quick_gelu)(x), expected, rtol=1e-5, atol=1e-6)


def test_causal_attention_equals_numpy():
    q, k, v = (np.random.default_rng(i).normal(size=(2, 5, 3, 4)).astype("f") for i in range(3))
    y = jax.jit(attend, static_argnums=(3, 4))(q, k, v, "xla", True)
    np.testing.assert_allclose(y, numpy_attend(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_token_reads_itself_and_those_before_it(changed):
    others = TOKENS.copy()
    others[:, changed] = 8
    before, after = (
        np.asarray(encode()(variables(), {"tokens": jnp.asarray(tokens)}).context)
        for tokens in (TOKENS, others)
    )
    moved = np.abs(after - before).max(axis=(0, 2))
    np.testing.assert_allclose(moved[:changed], 0, atol=1e-6)
    assert moved[changed:].min() > 1e-3


@pytest.mark.parametrize("null_tokens", [(), (9, 10, 10, 10, 10)])
def test_null_is_the_encoding_of_the_empty_caption(null_tokens):
    module = ClipText(**FIELDS, null_tokens=null_tokens)
    null = jax.jit(lambda v: module.apply(v, 3, method="null"))(variables()).context
    expected = numpy_encode(np.array([null_tokens or (0,) * 5]), "quick_gelu")
    np.testing.assert_allclose(null, np.repeat(expected, 3, axis=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ClipText(), 123_060_480),  # ViT-L/14
        (ClipText(dim=1024, depth=23, num_heads=16, activation="gelu"), 340_387_840),  # ViT-H/14
    ],
)
def test_the_text_towers_of_stable_diffusion(module, expected):
    batch = {"tokens": jnp.zeros((1, 77), jnp.int32)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_heads": 3}, r"clip_text.num_heads=3 must divide dim=8. Legal: 1, 2, 4, 8."),
        ({"activation": "relu"}, r"clip_text.activation: got 'relu'.* Legal: gelu, quick_gelu."),
        ({"depth": 0}, r"clip_text.depth: got 0. Legal: 1 or more."),
        ({"null_tokens": (1, 2)}, r"clip_text.null_tokens: got 2 tokens, expected length=5."),
        ({"attention_impl": "cudnn"}, r"attention_impl='cudnn': got dtype=float32."),
    ],
)
def test_illegal_fields(fields, text):
    with pytest.raises(UserError, match=text):
        ClipText(**{**FIELDS, **fields})


def test_tokens_of_another_length_are_refused():
    with pytest.raises(UserError, match=r"batch\['tokens'\]: got shape \(2, 4\)"):
        ClipText(**FIELDS).apply(variables(), {"tokens": jnp.zeros((2, 4), jnp.int32)})
