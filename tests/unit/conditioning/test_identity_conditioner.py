import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import Identity
from ldm_jax.core.checks import UserError

SHAPES = {"context": (3, 4), "concat": (2, 2, 3), "embedding": (6,)}
ROUTES = pytest.mark.parametrize("route", SHAPES)


@ROUTES
def test_the_entry_comes_out_on_its_route(route):
    module = Identity("vectors", SHAPES[route], route)
    x = np.random.default_rng(0).normal(size=(2, *SHAPES[route])).astype(np.float32)
    assert module.init(jax.random.key(0), {"vectors": x}) == {}
    found = jax.jit(module.apply)({}, {"vectors": x, "other": x})
    np.testing.assert_array_equal(getattr(found, route), x)
    assert len(jax.tree.leaves(found)) == 1
    half = Identity("vectors", SHAPES[route], route, dtype=jnp.bfloat16).apply({}, {"vectors": x})
    np.testing.assert_array_equal(getattr(half, route), x.astype(jnp.bfloat16))


@ROUTES
def test_the_entry_is_scaled(route):
    module = Identity("vectors", SHAPES[route], route, scale=-1.5)
    x = np.random.default_rng(0).normal(size=(2, *SHAPES[route])).astype(np.float32)
    found = jax.jit(module.apply)({}, {"vectors": x})
    np.testing.assert_allclose(getattr(found, route), -1.5 * x, rtol=1e-6)


@ROUTES
def test_null_is_zero(route):
    module = Identity("vectors", SHAPES[route], route)
    null = jax.jit(lambda: module.apply({}, 3, method="null"))()
    np.testing.assert_array_equal(getattr(null, route), np.zeros((3, *SHAPES[route])))
    assert len(jax.tree.leaves(null)) == 1


@ROUTES
def test_input_shapes(route):
    module = Identity("vectors", SHAPES[route], route)
    assert module.inputs == ("vectors",)
    expected = {"vectors": jax.ShapeDtypeStruct(SHAPES[route], jnp.float32)}
    assert module.input_shapes(64) == expected


def test_maps_of_another_size_pass_but_not_of_another_width():
    module = Identity("low_res", (2, 2, 3), "concat")
    assert module.apply({}, {"low_res": jnp.ones((1, 4, 6, 3))}).concat.shape == (1, 4, 6, 3)
    with pytest.raises(UserError) as caught:
        module.apply({}, {"low_res": jnp.ones((1, 2, 2, 4))})
    assert str(caught.value) == (
        "batch['low_res']: got shape (1, 2, 2, 4), expected ('any', 'any', 'any', 3)."
    )


def test_tokens_of_another_number_are_refused():
    with pytest.raises(
        UserError, match=r"batch\['clip'\]: got shape \(1, 2, 4\), expected .* 3, 4"
    ):
        Identity("clip", (3, 4), "context").apply({}, {"clip": jnp.ones((1, 2, 4))})


def test_illegal_fields():
    with pytest.raises(UserError, match=r"identity.route: got 'add'.* Legal: context, concat, emb"):
        Identity("x", (3, 4), "add")
    with pytest.raises(UserError, match=r"identity.shape: got 0. Legal: 1 or more."):
        Identity("x", (3, 0), "context")
    with pytest.raises(UserError, match=r"identity.shape: got shape \(3,\), expected \(2,\)"):
        Identity("x", (3, 4, 5), "context")
    for scale in (0.0, float("nan")):
        with pytest.raises(UserError, match=rf"identity.scale={scale}: legal is a finite number"):
            Identity("x", (3, 4), "context", scale=scale)
