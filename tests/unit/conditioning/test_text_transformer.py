import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import TextTransformer
from ldm_jax.core.checks import UserError

FIELDS = {"vocab_size": 11, "length": 4, "dim": 6, "depth": 2, "num_heads": 2, "head_dim": 4}
TOKENS = np.array([[1, 5, 0, 0], [10, 2, 3, 0]], np.int32)
BATCH = {"tokens": jnp.asarray(TOKENS)}
gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@functools.cache
def variables():
    shapes = jax.eval_shape(TextTransformer(**FIELDS).init, jax.random.key(0), BATCH)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", np.float32(0))


def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p["scale"] + p["bias"]


def numpy_encode(p, tokens):
    x = p["token_embedding"]["embedding"][tokens] + p["position_embedding"]
    for i in range(2):
        layer = p[f"layer_{i}"]
        y, attn = layer_norm(x, layer["norm_attn"]), layer["attn"]
        q, k, v = (dense(y, attn[n]).reshape(*y.shape[:2], 2, 4) for n in ("to_q", "to_k", "to_v"))
        weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 2)
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(*y.shape[:2], 8)
        x = x + dense(y, attn["to_out"])
        y = layer_norm(x, layer["norm_ff"])
        x = x + dense(gelu(dense(y, layer["ff"]["hidden"])), layer["ff"]["out"])
    return layer_norm(x, p["norm_out"])


def test_encoding_equals_numpy():
    expected = numpy_encode(jax.tree.map(np.asarray, variables()["params"]), TOKENS)
    module = TextTransformer(**FIELDS)
    context = jax.jit(module.apply)(variables(), BATCH).context
    np.testing.assert_allclose(context, expected, rtol=1e-3, atol=1e-4)


def test_tables_start_normal_with_standard_deviation_0_02():
    module = TextTransformer(**{**FIELDS, "vocab_size": 300, "length": 50, "dim": 64, "depth": 0})
    batch = {"tokens": jnp.zeros((1, 50), jnp.int32)}
    params = jax.jit(module.init)(jax.random.key(0), batch)["params"]
    for table in (params["token_embedding"]["embedding"], params["position_embedding"]):
        np.testing.assert_allclose(np.std(table), 0.02, rtol=0.05)


@pytest.mark.parametrize("null_tokens", [(), (1, 2, 0, 0)])
def test_null_is_the_encoding_of_the_empty_caption(null_tokens):
    module = TextTransformer(**FIELDS, null_tokens=null_tokens)
    null = jax.jit(lambda v: module.apply(v, 3, method="null"))(variables()).context
    tokens = np.array([null_tokens or (0, 0, 0, 0)])
    expected = numpy_encode(jax.tree.map(np.asarray, variables()["params"]), tokens)
    assert null.shape == (3, 4, 6)
    np.testing.assert_allclose(null, np.repeat(expected, 3, axis=0), rtol=1e-3, atol=1e-4)


def test_dropout_acts_only_in_training():
    module = TextTransformer(**FIELDS, dropout=0.5)
    rngs = {"dropout": jax.random.key(0)}
    train = jax.jit(functools.partial(module.apply, deterministic=False))
    plain = jax.jit(module.apply)(variables(), BATCH).context
    assert not np.allclose(train(variables(), BATCH, rngs=rngs).context, plain)
    without = jax.jit(TextTransformer(**FIELDS).apply)
    np.testing.assert_allclose(without(variables(), BATCH).context, plain, atol=1e-6)


def test_null_tokens_of_another_length_are_refused():
    with pytest.raises(UserError, match="null_tokens: got 3 tokens, expected length=4"):
        TextTransformer(**FIELDS, null_tokens=(1, 2, 3))


def test_tokens_of_another_length_are_refused():
    with pytest.raises(UserError, match=r"batch\['tokens'\]: got shape \(2, 5\)"):
        TextTransformer(**FIELDS).apply(variables(), {"tokens": jnp.zeros((2, 5), jnp.int32)})


def test_pooled_embedding_is_a_projection_of_the_normalised_mean_token():
    module = TextTransformer(**FIELDS, pooled_dim=5)
    params = jax.tree.map(
        lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), BATCH)["params"],
    )
    found = jax.jit(module.apply)({"params": params}, BATCH)
    mean = np.asarray(found.context).mean(axis=1)
    centred = mean - mean.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
    unit = unit * params["norm_pool"]["scale"] + params["norm_pool"]["bias"]
    expected = unit @ params["pool"]["kernel"] + params["pool"]["bias"]
    np.testing.assert_allclose(found.embedding, expected, rtol=1e-3, atol=1e-4)
    null = module.apply({"params": params}, 3, method="null")
    assert null.embedding.shape == (3, 5)
    assert null.context.shape == (3, 4, 6)


def test_unused_logits_count_but_change_nothing():
    module = TextTransformer(30522, dim=1280, depth=32, unused_logits=True)
    batch = {"tokens": jnp.zeros((1, 77), jnp.int32)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 581_994_042

    module = TextTransformer(**FIELDS, unused_logits=True)
    to_logits = jax.eval_shape(module.init, jax.random.key(0), BATCH)["params"]["to_logits"]
    assert jax.tree.map(jnp.shape, to_logits) == {"kernel": (6, 11), "bias": (11,)}
    noise = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), to_logits)
    with_logits = {"params": {**variables()["params"], "to_logits": noise}}
    expected = numpy_encode(jax.tree.map(np.asarray, variables()["params"]), TOKENS)
    context = jax.jit(module.apply)(with_logits, BATCH).context
    np.testing.assert_allclose(context, expected, rtol=1e-3, atol=1e-4)


def test_key_names_the_entry_that_is_read():
    module = TextTransformer(**FIELDS, key="layout")
    assert module.inputs == ("layout",)
    assert module.input_shapes(64) == {"layout": jax.ShapeDtypeStruct((4,), jnp.int32)}
    batch = {"layout": jnp.asarray(TOKENS), "tokens": jnp.zeros((2, 4), jnp.int32)}
    expected = numpy_encode(jax.tree.map(np.asarray, variables()["params"]), TOKENS)
    context = jax.jit(module.apply)(variables(), batch).context
    np.testing.assert_allclose(context, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"batch\['layout'\]: got shape \(2, 5\)"):
        module.apply(variables(), {"layout": jnp.zeros((2, 5), jnp.int32)})
