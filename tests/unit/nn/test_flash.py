"""The TPU kernel, run by its interpreter, and the choice of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.attention import attend
from ldm_jax.nn.flash import flash_attend, takes_flash
from ldm_jax.parallel.mesh import make_mesh

interpreted = functools.partial(flash_attend, interpret=True)


def arrays(batch, queries, keys, heads=2, width=8):
    draw = np.random.default_rng(0).standard_normal
    shapes = [(batch, n, heads, width) for n in (queries, keys, keys)]
    return [draw(shape).astype(np.float32) for shape in shapes]


def numpy_attend(q, k, v):
    logits = np.einsum("bnhd,bmhd->bhnm", q, k, dtype=np.float64) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhnm,bmhd->bnhd", weights, v)


def plain(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


@pytest.mark.parametrize(("queries", "keys"), [(256, 128), (128, 384), (1024, 1024)])
def test_the_kernel_is_attention_and_has_its_gradient(queries, keys):
    q, k, v = arrays(1, queries, keys)

    def result_and_gradients(f):
        def total(*inputs):
            y = f(*inputs)
            return jnp.sin(y).sum(), y

        return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    gradients, y = result_and_gradients(interpreted)
    np.testing.assert_allclose(y, numpy_attend(q, k, v), atol=1e-5)
    for got, expected in zip(gradients, result_and_gradients(plain)[0], strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_half_precision_and_logits_of_hundreds():
    exact = [30 * x for x in arrays(1, 256, 512)[:2]] + arrays(1, 256, 512)[2:]
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in exact)
    expected = numpy_attend(*(np.asarray(x, np.float64) for x in (q, k, v)))

    def total(q, k, v):
        y = interpreted(q, k, v)
        return jnp.sum(y.astype(jnp.float32)), y

    gradients, y = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    assert y.dtype == gradients[0].dtype == jnp.bfloat16
    # Scaled queries are rounded to 8 bits, so logits of hundreds by a unit or so.
    error = np.abs(np.asarray(y, np.float64) - expected)
    assert np.median(error) < 0.01
    assert all(jnp.isfinite(g).all() for g in gradients)
    # Softmax weights of every query sum to 1.
    np.testing.assert_allclose(
        gradients[2].astype(jnp.float32).sum(axis=(1, 3)), 256 * 8.0, rtol=0.01
    )


def test_on_a_mesh_every_device_attends_for_its_own_images_and_heads():
    q, k, v = arrays(4, 128, 128)
    with jax.set_mesh(make_mesh((2, 2, 2))):
        program = jax.jit(interpreted).lower(q, k, v).compile()
        np.testing.assert_allclose(program(q, k, v), numpy_attend(q, k, v), atol=1e-5)
    # One image and one head of four and two.
    assert "f32[1,1,8,128]" in program.as_text()


@pytest.mark.parametrize(("batch", "heads"), [(3, 2), (4, 3)])
def test_what_a_mesh_does_not_divide_stays_whole(batch, heads):
    inputs = arrays(batch, 128, 128, heads)
    with jax.set_mesh(make_mesh((4, 1, 2))):
        y = jax.jit(interpreted)(*inputs)
    np.testing.assert_allclose(y, numpy_attend(*inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("queries", "keys", "head_dim", "expected"),
    [
        (4096, 4096, 40, True),
        (16384, 16384, 160, True),
        (4096, 4096, 512, True),
        (256, 256, 160, True),
        (4096, 77, 40, False),
        (900, 900, 40, False),
        (128, 128, 40, False),
        (16384, 16384, 512, False),
    ],
)
def test_long_sequences_in_whole_blocks_take_the_kernel(queries, keys, head_dim, expected):
    assert takes_flash(queries, keys, head_dim) == expected


@pytest.mark.parametrize(
    ("impl", "dtype", "causal", "expected"),
    [
        ("auto", "bfloat16", False, True),
        ("auto", "float32", False, False),
        ("auto", "bfloat16", True, False),
        ("xla", "bfloat16", False, False),
    ],
)
def test_a_program_for_a_tpu_has_the_kernel_where_it_should(impl, dtype, causal, expected):
    x = jax.ShapeDtypeStruct((1, 1024, 2, 40), dtype)
    traced = jax.jit(lambda q, k, v: attend(q, k, v, impl, causal)).trace(x, x, x)
    assert ("tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()) == expected
    assert "custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_float16_keeps_to_xla_for_the_compiler_of_kernels_does_not_know_it():
    x = jax.ShapeDtypeStruct((1, 1024, 2, 40), "float16")
    traced = jax.jit(lambda q, k, v: attend(q, k, v, "auto")).trace(x, x, x)
    assert "custom_call" not in traced.lower(lowering_platforms=("tpu",)).as_text()
