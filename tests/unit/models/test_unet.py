import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Conditioning
from ldm_jax.models import UNet
from ldm_jax.nn.remat import REMAT

SMALL = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 4}
TRANSFORMER = {**SMALL, "attention_factors": (2,), "num_heads": 2, "transformer_depth": 1}
# The policies that `make test` compiles, and the one that is no policy.
_QUICK_REMAT = {"none", "elementwise"}


def inputs(channels=3, context=5, size=4):
    rng = np.random.default_rng(0)
    z_t = jnp.asarray(rng.normal(size=(2, size, size, channels)), jnp.float32)
    t = jnp.array([3.0, 700.5])
    if context is None:
        return z_t, t, Conditioning()
    tokens = jnp.asarray(rng.normal(size=(2, 3, context)), jnp.float32)
    return z_t, t, Conditioning(context=tokens)


def shapes_of(model, *args):
    return jax.eval_shape(model.init, jax.random.key(0), *args)


def noise(model, *args):
    """Returns variables that are all noise, those that start at zero too."""
    rng = np.random.default_rng(1)
    shapes = shapes_of(model, *args)
    return jax.tree.map(lambda x: 0.2 * rng.normal(size=x.shape).astype(x.dtype), shapes)


@functools.cache
def random_variables():
    return noise(UNet(3, **TRANSFORMER), *inputs())


@functools.cache
def loss_and_gradient(remat):
    model = UNet(3, **TRANSFORMER, remat=remat)

    def loss(variables):
        return jnp.mean(jnp.square(model.apply(variables, *inputs(), deterministic=False)))

    return jax.jit(jax.value_and_grad(loss))(random_variables())


@pytest.mark.parametrize(
    "fields",
    [TRANSFORMER, {**SMALL, "scale_shift_norm": True, "resblock_updown": True}],
    ids=["transformer", "updown"],
)
def test_output_is_zero_at_first_so_that_the_first_loss_is_one(fields):
    model = UNet(3, **fields)
    args = inputs(context=5 if "transformer_depth" in fields else None, size=32)
    variables = noise(model, *args)
    # Only this leaf of the initialisation is computed; the draws of all others are pruned.
    init_head = jax.jit(lambda key: model.init(key, *args)["params"]["conv_out"])
    variables["params"]["conv_out"] = init_head(jax.random.key(0))
    y = jax.jit(model.apply)(variables, *args)
    assert y.shape == (2, 32, 32, 3)
    assert not np.any(y)
    target = np.random.default_rng(2).normal(size=y.shape)
    np.testing.assert_allclose(np.mean((target - y) ** 2), 1.0, atol=0.06)
    np.testing.assert_allclose(np.mean(np.abs(target - y)), np.sqrt(2 / np.pi), atol=0.04)


def test_parameters_carry_the_names_that_sharding_rules_match():
    params = random_variables()["params"]
    assert set(params) == {
        *("conv_in", "time_mlp_0", "time_mlp_1", "norm_out", "conv_out"),
        *("down_0_res_0", "down_0_downsample", "down_1_res_0", "down_1_attn_0"),
        *("mid_res_0", "mid_attn", "mid_res_1"),
        *("up_1_res_0", "up_1_res_1", "up_1_attn_0", "up_1_attn_1", "up_1_upsample"),
        *("up_0_res_0", "up_0_res_1"),
    }
    block = params["mid_attn"]["block_0"]
    assert set(block["cross_attn"]) == {"to_q", "to_k", "to_v", "to_out"}
    assert set(block["ff"]) == {"value", "gate", "out"}


@pytest.mark.parametrize(
    "remat",
    [
        "elementwise",
        *(pytest.param(x, marks=pytest.mark.slow) for x in sorted(set(REMAT) - _QUICK_REMAT)),
    ],
)
def test_remat_changes_neither_parameters_nor_gradients(remat):
    model = UNet(3, **TRANSFORMER, remat=remat)
    shapes = shapes_of(model, *inputs())
    assert jax.tree.structure(shapes) == jax.tree.structure(random_variables())
    (loss, gradient), (expected_loss, expected) = (
        loss_and_gradient(remat),
        loss_and_gradient("none"),
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        scale = np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * scale + 1e-7)


def _products(jaxpr):
    """Counts convolutions and matrix products of weights, inner programs included."""
    count = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            count += not equation.params["dimension_numbers"][1][0]  # logits have batch axes
        count += name == "conv_general_dilated"
        inner = [getattr(x, "jaxpr", x) for x in jax.tree.leaves(tuple(equation.params.values()))]
        count += sum(_products(x) for x in inner if hasattr(x, "eqns"))
    return count


def _gradient_program(remat):
    model = UNet(3, **TRANSFORMER, remat=remat, attention_impl="xla")

    def loss(variables):
        return jnp.mean(jnp.square(model.apply(variables, *inputs(size=8))))

    return jax.make_jaxpr(jax.grad(loss))(random_variables()).jaxpr


def test_elementwise_remat_computes_no_product_twice():
    once = _products(_gradient_program("none"))
    assert _products(_gradient_program("elementwise")) == once
    assert _products(_gradient_program("blocks")) > 1.2 * once


def test_every_parameter_has_a_gradient():
    _, gradient = loss_and_gradient("none")
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf), path


def test_dropout_works_under_remat():
    model = UNet(3, **SMALL, dropout=0.5, remat="blocks")
    z_t, t, _ = inputs()
    variables = noise(model, z_t, t)
    apply = jax.jit(functools.partial(model.apply, deterministic=False))
    rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 1)]
    one, two = (apply(variables, z_t, t, rngs=streams) for streams in rngs)
    assert not np.allclose(one, two)


def test_context_embedding_and_time_reach_the_output():
    model, variables = UNet(3, **TRANSFORMER), random_variables()
    z_t, t, conditioning = inputs()
    apply = jax.jit(model.apply)
    base = apply(variables, z_t, t, conditioning)
    embedding = jnp.ones((2, 32))
    others = [
        apply(variables, z_t, t + 50.0, conditioning),
        apply(variables, z_t, t, conditioning.replace(context=-conditioning.context)),
        apply(variables, z_t, t, conditioning.replace(embedding=embedding)),
    ]
    assert all(not np.allclose(base, other, atol=1e-4) for other in others)
    zero = conditioning.replace(embedding=jnp.zeros((2, 32)))
    np.testing.assert_allclose(apply(variables, z_t, t, zero), base, atol=1e-5)


def test_examples_do_not_mix():
    model, variables = UNet(3, **TRANSFORMER), random_variables()
    z_t, t, conditioning = inputs()
    apply = jax.jit(model.apply)
    both = apply(variables, z_t, t, conditioning)
    swapped = apply(variables, *jax.tree.map(lambda x: x[::-1], (z_t, t, conditioning)))
    np.testing.assert_allclose(both, swapped[::-1], rtol=1e-4, atol=1e-4)


def test_concat_is_appended_after_the_latent():
    z_t, t, _ = inputs()
    extra = jnp.ones((2, 4, 4, 2))
    model = UNet(3, **SMALL)
    variables = noise(model, z_t, t, Conditioning(concat=extra))
    assert variables["params"]["conv_in"]["kernel"].shape == (3, 3, 5, 8)
    apply = jax.jit(model.apply)
    by_route = apply(variables, z_t, t, Conditioning(concat=extra))
    by_hand = apply(variables, jnp.concatenate([z_t, extra], axis=-1), t)
    np.testing.assert_allclose(by_route, by_hand, rtol=1e-5, atol=1e-6)


def test_without_context_cross_attention_attends_to_itself():
    model = UNet(3, **TRANSFORMER)
    z_t, t, _ = inputs()
    shapes = shapes_of(model, z_t, t)
    assert shapes["params"]["mid_attn"]["block_0"]["cross_attn"]["to_k"]["kernel"].shape == (16, 16)


def test_bfloat16_compute_keeps_float32_parameters_and_output():
    model = UNet(3, **TRANSFORMER, dtype=jnp.bfloat16)
    shapes = shapes_of(model, *inputs())
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    y = jax.jit(model.apply)(random_variables(), *inputs())
    expected = jax.jit(UNet(3, **TRANSFORMER).apply)(random_variables(), *inputs())
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"remat": "all"},
            "remat: got 'all'.* Legal: none, elementwise, attention, blocks, dots, ",
        ),
        (
            {"attention_factors": (1,)},
            "attention heads: got num_heads=None, num_head_channels=None",
        ),
        ({"num_heads": 2, "num_head_channels": 4}, "expected exactly one of the two"),
        ({"num_groups": 3}, r"num_groups=3 must divide the width of level 0=8. Legal: 1, 2, 4, 8."),
        ({"num_heads": 3}, "num_heads=3 must divide the width of level 1=16"),
        ({"num_head_channels": 5}, "num_head_channels=5 must divide the width of level 1=16"),
        ({"attention_impl": "cudnn"}, "attention_impl='cudnn': got dtype=float32"),
        ({"attention_impl": "flash"}, "attention_impl: got 'flash'"),
    ],
)
def test_construction_errors_say_what_is_legal(fields, message):
    with pytest.raises(UserError, match=message):
        UNet(3, **{**SMALL, **fields})


@pytest.mark.parametrize(
    ("size", "conditioning", "message"),
    [
        (5, {}, "latent size: got 5x5, expected multiples of 2 on both sides. Legal: 2, 4, 6"),
        (4, {"context": (2, 3, 5)}, "conditioning.context: got tokens, but transformer_depth=0"),
        (
            4,
            {"embedding": (2, 8)},
            r"conditioning.embedding: got shape \(2, 8\), expected \(2, 32\)",
        ),
        (4, {"concat": (2, 2, 2, 1)}, r"conditioning.concat: got shape \(2, 2, 2, 1\), expected"),
    ],
)
def test_input_errors_say_what_is_legal(size, conditioning, message):
    conditioning = Conditioning(**{k: jnp.zeros(shape) for k, shape in conditioning.items()})
    model = UNet(3, **SMALL)
    with pytest.raises(UserError, match=message):
        shapes_of(model, jnp.zeros((2, size, size, 3)), jnp.zeros(2), conditioning)
