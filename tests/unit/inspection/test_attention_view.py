"""Maps of attention: against an attention made by hand, and read off real networks."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import ClassLabel
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Conditioning
from ldm_jax.inspection.attention import attention_view, cross_attention, word_maps
from ldm_jax.inspection.view import Subject
from ldm_jax.models import UNet
from ldm_jax.nn.attention import Attention


class TwoLayers(nn.Module):
    """Attention of z's cells to the context, twice, and once to themselves."""

    @nn.compact
    def __call__(self, z_t, t, conditioning):
        x = z_t.reshape(len(z_t), -1, z_t.shape[-1])
        for name in ("first", "second"):
            x = x + Layer(name=name)(x, conditioning.context)
        return x


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, context):
        x = x + Attention(2, 2, name="self_attn")(x)
        return 0 * x + Attention(2, 2, name="cross_attn")(x, context)


def test_a_hand_made_attention():
    """Two heads look for two kinds of tokens; what the second layer finds is not theirs."""
    z = np.zeros((1, 2, 2, 4), np.float32)
    z[0, 0, 0], z[0, 1, 1] = [1, 0, 0, 0], [0, 0, 1, 0]
    context = np.zeros((1, 3, 4), np.float32)
    context[0, 1], context[0, 2] = [1, 0, 0, 0], [0, 0, 1, 0]
    conditioning = Conditioning(context=jnp.asarray(context))
    model = TwoLayers()
    args = (jnp.asarray(z), jnp.zeros(1), conditioning)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), *args)["params"])
    strength = np.log(4) * np.sqrt(2)  # so that what is looked for weighs four times as much
    cross = params["first"]["cross_attn"]
    cross["to_q"]["kernel"], cross["to_k"]["kernel"] = jnp.eye(4), strength * jnp.eye(4)
    found = jax.jit(lambda params: cross_attention(model, params, *args))(params)
    assert list(found) == [4]
    # Cell 0 in the first head: weights 1, 4, 1 of 6; in the second, and elsewhere, 1, 1, 1 of 3.
    even = np.full(3, 1 / 3)
    first = np.stack([even, even, even, even])
    first[0] = (np.array([1, 4, 1]) / 6 + even) / 2
    first[3] = (np.array([1, 1, 4]) / 6 + even) / 2
    np.testing.assert_allclose(found[4][0], (first + even) / 2, atol=1e-6)
    maps = word_maps(np.asarray(found[4][0]), slice(1, 3), (2, 2))
    np.testing.assert_allclose(
        maps, ((first + even) / 2)[:, 1:].sum(axis=1).reshape(2, 2), atol=1e-6
    )


@pytest.fixture(scope="module")
def network():
    draw = np.random.default_rng(0)
    model = UNet(
        2,
        channels=8,
        channel_mult=(1, 2),
        num_res_blocks=0,
        attention_factors=(1, 2),
        num_heads=2,
        transformer_depth=1,
        num_groups=4,
    )
    z, t = jnp.asarray(draw.standard_normal((1, 8, 4, 2)), jnp.float32), jnp.full(1, 500.0)
    conditioning = Conditioning(context=jnp.asarray(draw.standard_normal((1, 5, 6)), jnp.float32))
    shapes = jax.eval_shape(model.init, jax.random.key(0), z, t, conditioning)["params"]
    params = jax.tree.map(lambda x: 0.3 * draw.standard_normal(x.shape).astype(x.dtype), shapes)
    return model, params, (z, t, conditioning)


@pytest.fixture(scope="module")
def maps(network):
    model, params, args = network
    return jax.jit(lambda params: cross_attention(model, params, *args))(params)


def test_every_resolution_of_a_network_has_probabilities(maps):
    assert {places: x.shape for places, x in maps.items()} == {32: (1, 32, 5), 8: (1, 8, 5)}
    for found in maps.values():
        np.testing.assert_allclose(jnp.sum(found, axis=-1), 1, atol=1e-5)
        assert float(found.min()) >= 0
        assert float(jnp.std(found, axis=1).max()) > 1e-3  # places differ
    # 8 × 4 latents: 8 places are 4 × 2.
    assert word_maps(np.asarray(maps[8][0]), slice(0, 2), (8, 4)).shape == (4, 2)


def test_rematerialised_blocks_have_the_same_maps(network, maps):
    model, params, args = network
    again = model.clone(remat="blocks")
    found = jax.jit(lambda params: cross_attention(again, params, *args))(params)
    assert list(found) == list(maps)
    for places, expected in maps.items():
        np.testing.assert_allclose(found[places], expected, atol=1e-5)


def test_models_of_classes_have_no_words():
    conditioner = ClassLabel(num_classes=3, dim=4)
    pipeline = SimpleNamespace(task=SimpleNamespace(conditioner=conditioner))
    with pytest.raises(UserError) as error:
        attention_view(Subject(pipeline, classes=[1]))
    assert str(error.value) == (
        "attention: this model's conditioner reads class. Legal: a model that reads text."
    )
