import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import BertText
from ldm_jax.core.checks import UserError

FIELDS = {"vocab_size": 11, "length": 5, "dim": 8, "depth": 2, "num_heads": 2, "num_positions": 9}
TOKENS = np.array([[1, 5, 7, 0, 0], [10, 2, 3, 9, 4]], np.int32)  # 0 pads
BATCH = {"tokens": jnp.asarray(TOKENS)}
GELU = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@functools.cache
def variables():
    shapes = jax.eval_shape(BertText(**FIELDS).init, jax.random.key(0), BATCH)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def encode(**fields):
    return jax.jit(BertText(**FIELDS, **fields).apply)


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return y * p["scale"] + p["bias"]


def numpy_encode(caption):
    """Encodes the tokens of one caption, which has no padding."""
    p = jax.tree.map(np.asarray, variables()["params"])
    x = p["token_embedding"]["embedding"][caption] + p["position_embedding"][: len(caption)]
    x = layer_norm(x + p["type_embedding"][0], p["norm_embedding"])
    for i in range(2):
        layer = p[f"layer_{i}"]
        attn = layer["attn"]
        q, k, v = (dense(x, attn[n]).reshape(-1, 2, 4) for n in ("to_q", "to_k", "to_v"))
        weights = np.exp(np.einsum("nhd,mhd->hnm", q, k) / 2.0)
        weights /= weights.sum(-1, keepdims=True)
        y = np.einsum("hnm,mhd->nhd", weights, v).reshape(x.shape)
        x = layer_norm(x + dense(y, attn["to_out"]), layer["norm_attn"])
        y = dense(GELU(dense(x, layer["ff"]["hidden"])), layer["ff"]["out"])
        x = layer_norm(x + y, layer["norm_ff"])
    return x


def test_a_caption_is_encoded_as_if_it_had_no_padding():
    context = encode()(variables(), BATCH).context
    np.testing.assert_allclose(context[0, :3], numpy_encode(TOKENS[0, :3]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(context[1], numpy_encode(TOKENS[1]), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(context[0, 3:], 0.0)


def test_every_token_reads_every_other():
    others = TOKENS.copy()
    others[1, 4] = 8
    after = encode()(variables(), {"tokens": jnp.asarray(others)}).context
    moved = np.abs(np.asarray(after) - encode()(variables(), BATCH).context).max(axis=2)
    assert moved[1].min() > 1e-4
    np.testing.assert_array_equal(moved[0], 0.0)


def test_the_sentence_vector_is_the_mean_of_what_is_no_padding():
    found = encode(pooled=True)(variables(), BATCH)
    expected = [numpy_encode(TOKENS[0, :3]).mean(0), numpy_encode(TOKENS[1]).mean(0)]
    np.testing.assert_allclose(found.embedding, expected, rtol=1e-3, atol=1e-4)
    assert encode()(variables(), BATCH).embedding is None


def test_null_is_the_encoding_of_the_empty_caption():
    module = BertText(**FIELDS, pooled=True, null_tokens=(9, 10, 0, 0, 0))
    null = jax.jit(lambda v: module.apply(v, 3, method="null"))(variables())
    expected = numpy_encode(np.array([9, 10]))
    for row in range(3):
        np.testing.assert_allclose(null.context[row, :2], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(null.embedding[row], expected.mean(0), rtol=1e-3, atol=1e-4)


def test_padding_alone_is_encoded_as_zeros():
    module = BertText(**FIELDS, pooled=True)
    null = jax.jit(lambda v: module.apply(v, 2, method="null"))(variables())
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(null))


def test_another_token_may_pad():
    found = encode(pad_id=4)(variables(), BATCH).context
    np.testing.assert_array_equal(found[1, 4], 0.0)
    assert np.abs(found[0, 3:]).min() > 0


def test_the_defaults_are_mini_lm():
    batch = {"tokens": jnp.zeros((1, 77), jnp.int32)}
    shapes = jax.eval_shape(BertText().init, jax.random.key(0), batch)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count == 22_713_216 - (384 + 1) * 384  # without its pooler, which is not read


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_heads": 3}, r"bert_text.num_heads=3 must divide dim=8. Legal: 1, 2, 4, 8."),
        ({"num_types": 0}, r"bert_text.num_types: got 0. Legal: 1 or more."),
        ({"length": 10}, r"bert_text.length: got 10, more than num_positions=9. Legal: 1 to 9."),
        ({"null_tokens": (1, 2)}, r"bert_text.null_tokens: got 2 tokens, expected length=5."),
        ({"attention_impl": "cudnn"}, r"attention_impl='cudnn': got dtype=float32."),
    ],
)
def test_illegal_fields(fields, text):
    with pytest.raises(UserError, match=text):
        BertText(**{**FIELDS, **fields})


def test_tokens_of_another_length_are_refused():
    with pytest.raises(UserError, match=r"batch\['tokens'\]: got shape \(2, 4\)"):
        BertText(**FIELDS).apply(variables(), {"tokens": jnp.zeros((2, 4), jnp.int32)})
