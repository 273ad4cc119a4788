"""What every conditioner of the registry must do; a new one needs a row in CASES."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import CONDITIONERS, Conditioner, drop
from ldm_jax.core.config import build

# Field values for a small instance, and what its inputs look like: (shape, exclusive maximum of
# whole numbers, 256 for bytes, or None for floats).
CASES = {
    "none": [({}, {})],
    "class_label": [
        ({"num_classes": 7, "dim": 8}, {"class": ((), 7)}),
        ({"num_classes": 7, "dim": 8, "route": "embedding"}, {"class": ((), 7)}),
    ],
    "text_transformer": [
        (
            {"vocab_size": 9, "length": 5, "dim": 8, "depth": 1, "num_heads": 2, "head_dim": 4},
            {"tokens": ((5,), 9)},
        )
    ],
    "clip_text": [
        (
            {"vocab_size": 9, "length": 5, "dim": 8, "depth": 1, "num_heads": 2},
            {"tokens": ((5,), 9)},
        )
    ],
    "bert_text": [
        (
            {"vocab_size": 9, "length": 5, "dim": 8, "depth": 1, "num_heads": 2, **more},
            {"tokens": ((5,), 9)},
        )
        for more in ({}, {"pooled": True})
    ],
    "clip_image": [
        (
            {"resolution": 8, "patch": 4, "dim": 8, "depth": 1, "num_heads": 2, "projection_dim": 6}
            | {"normalized": normalized},
            {"image": ((16, 16, 3), 256)},
        )
        for normalized in (False, True)
    ],
    "spatial_rescaler": [({"num_classes": 5, "image_size": 8}, {"segmentation": ((8, 8), 5)})],
    "identity": [
        ({"key": "clip", "shape": (3, 4), "route": "context"}, {"clip": ((3, 4), None)}),
        ({"key": "low_res", "shape": (2, 2, 3), "route": "concat"}, {"low_res": ((2, 2, 3), None)}),
        ({"key": "vector", "shape": (6,), "route": "embedding"}, {"vector": ((6,), None)}),
    ],
}
# Those that have no null condition by choice.
WITHOUT_NULL = {
    "class_label": [({"num_classes": 7, "dim": 8, "null_class": False}, {"class": ((), 7)})],
}


def parametrize(*tables):
    rows = [(name, *case) for table in tables for name, cases in table.items() for case in cases]
    extra = {True: "", False: "-no-null"}
    ids = [
        f"{name}-{fields.get('route', 'default')}{extra[fields.get('null_class', True)]}"
        for name, fields, _ in rows
    ]
    return pytest.mark.parametrize(("name", "fields", "spec"), rows, ids=ids)


guided_cases = parametrize(CASES)
conditioner_cases = parametrize(CASES, WITHOUT_NULL)


def make(name, fields, spec, **extra):
    """Returns a small conditioner, a batch of four, and variables made of noise."""
    module = build("config.conditioner", CONDITIONERS, {"name": name, **fields}, **extra)
    rng = np.random.default_rng(0)
    batch = {}
    for key, (shape, maximum) in spec.items():
        size = (4, *shape)
        whole = maximum is not None
        draws = rng.integers(0, maximum, size=size) if whole else rng.normal(size=size)
        dtype = {None: jnp.float32, 256: jnp.uint8}.get(maximum, jnp.int32)
        batch[key] = jnp.asarray(draws, dtype)
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
    return module, batch, variables


def test_every_registered_conditioner_has_a_case():
    assert set(CASES) == set(CONDITIONERS)


@conditioner_cases
def test_inputs_name_what_is_read(name, fields, spec):
    module, batch, variables = make(name, fields, spec)
    assert isinstance(module, Conditioner)
    assert module.inputs == tuple(batch)
    jax.eval_shape(module.apply, variables, {key: batch[key] for key in module.inputs})


@conditioner_cases
def test_input_shapes_are_those_of_an_example(name, fields, spec):
    module, batch, _ = make(name, fields, spec)
    found = module.input_shapes(fields.get("image_size", 16))
    assert {key: (x.shape, x.dtype) for key, x in found.items()} == {
        key: (x.shape[1:], x.dtype) for key, x in batch.items()
    }


@guided_cases
def test_null_has_the_routes_and_row_shapes_of_a_batch(name, fields, spec):
    module, batch, variables = make(name, fields, spec)
    given = jax.jit(module.apply)(variables, batch)
    for size in (1, 3):
        null = jax.jit(lambda v, n=size: module.apply(v, n, method="null"))(variables)
        assert jax.tree.structure(null) == jax.tree.structure(given)
        for x, empty in zip(jax.tree.leaves(given), jax.tree.leaves(null), strict=True):
            assert x.shape[0] == 4
            assert empty.shape == (size, *x.shape[1:])
            assert empty.dtype == x.dtype
            np.testing.assert_allclose(empty, np.repeat(empty[:1], size, axis=0), atol=1e-6)
        if module.uniform_null and null.concat is not None:
            cell = null.concat[:, :1, :1]
            np.testing.assert_array_equal(null.concat, np.broadcast_to(cell, null.concat.shape))


@guided_cases
def test_drop_within_one_jitted_application(name, fields, spec):
    module, batch, variables = make(name, fields, spec)
    mask = jnp.array([True, False, False, True])

    def conditioned(module, batch):
        return drop(module(batch), module.null(1), mask)

    dropped = jax.jit(functools.partial(module.apply, method=conditioned))(variables, batch)
    given = jax.jit(module.apply)(variables, batch)
    null = jax.jit(lambda v: module.apply(v, 1, method="null"))(variables)
    leaves = (jax.tree.leaves(tree) for tree in (dropped, given, null))
    for got, x, empty in zip(*leaves, strict=True):
        np.testing.assert_allclose(got[1:3], x[1:3], atol=1e-5)
        np.testing.assert_allclose(got[::3], np.repeat(empty, 2, axis=0), atol=1e-5)


@conditioner_cases
def test_gradients_are_finite(name, fields, spec):
    module, batch, variables = make(name, fields, spec)

    def loss(variables):
        leaves = jax.tree.leaves(module.apply(variables, batch, deterministic=False))
        return sum((jnp.sum(jnp.sin(leaf)) for leaf in leaves), jnp.float32(0))

    gradient = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@conditioner_cases
def test_bfloat16_keeps_float32_parameters(name, fields, spec):
    module, batch, variables = make(name, fields, spec, dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    conditioning = jax.eval_shape(module.apply, variables, batch)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(conditioning))
