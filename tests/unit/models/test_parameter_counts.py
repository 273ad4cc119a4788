"""Full-size networks against the counts of the reference's own modules (facts 4.1, 4.2, 4.4)."""

import math

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.conditioning import ClassLabel, TextTransformer
from ldm_jax.core.types import Conditioning
from ldm_jax.models import Autoencoder, UNet


def count(module, *args):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


# (parameters, input channels, context width, network)
UNETS = {
    "celebahq, ffhq, bedrooms": (
        274_056_163,
        3,
        None,
        UNet(3, 224, (1, 2, 3, 4), attention_factors=(8, 4, 2), num_head_channels=32),
    ),
    "churches": (
        294_966_916,
        4,
        None,
        UNet(
            4,
            192,
            (1, 2, 2, 4, 4),
            attention_factors=(1, 2, 4, 8),
            num_heads=8,
            scale_shift_norm=True,
            resblock_updown=True,
        ),
    ),
    "churches without scale-shift and resblock_updown": (
        256_401_796,
        4,
        None,
        UNet(4, 192, (1, 2, 2, 4, 4), attention_factors=(1, 2, 4, 8), num_heads=8),
    ),
    "cin-f8": (
        394_984_196,
        4,
        512,
        UNet(
            4,
            256,
            (1, 2, 4),
            attention_factors=(4, 2, 1),
            num_head_channels=32,
            transformer_depth=1,
        ),
    ),
    "cin256-v2": (
        400_920_579,
        3,
        512,
        UNet(3, 192, (1, 2, 3, 5), attention_factors=(8, 4, 2), num_heads=1, transformer_depth=1),
    ),
    "text2img256": (
        403_623_939,
        3,
        640,
        UNet(
            3,
            192,
            (1, 2, 3, 5),
            attention_factors=(8, 4, 2),
            num_head_channels=32,
            transformer_depth=1,
        ),
    ),
    "txt2img-1p4B": (
        872_300_484,
        4,
        1280,
        UNet(4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), num_heads=8, transformer_depth=1),
    ),
    "layout2img": (
        246_277_379,
        3,
        512,
        UNet(
            3,
            128,
            (1, 2, 3, 4),
            attention_factors=(8, 4, 2),
            num_head_channels=32,
            transformer_depth=3,
        ),
    ),
    "inpainting_big": (
        387_245_827,
        7,
        None,
        UNet(
            3,
            256,
            (1, 2, 3, 4),
            attention_factors=(8, 4, 2),
            num_heads=8,
            resblock_updown=True,
        ),
    ),
    "bsr_sr": (
        113_622_563,
        6,
        None,
        UNet(3, 160, (1, 2, 2, 4), attention_factors=(16, 8), num_head_channels=32),
    ),
    "semantic_synthesis": (
        215_229_315,
        6,
        None,
        UNet(3, 128, (1, 4, 8), attention_factors=(32, 16, 8), num_heads=8),
    ),
    "rdm": (
        1_335_480_400,
        16,
        768,
        UNet(
            16,
            448,
            (1, 2, 3, 4),
            attention_factors=(4, 2, 1),
            num_head_channels=32,
            transformer_depth=1,
        ),
    ),
    "stable diffusion v1": (
        859_520_964,
        4,
        768,
        UNet(4, 320, (1, 2, 4, 4), attention_factors=(4, 2, 1), num_heads=8, transformer_depth=1),
    ),
}


@pytest.mark.parametrize("name", UNETS)
def test_unet(name):
    expected, channels, context, unet = UNETS[name]
    size = unet.size_multiple
    conditioning = Conditioning(context=None if context is None else jnp.zeros((1, 1, context)))
    z_t = jnp.zeros((1, size, size, channels))
    assert count(unet, z_t, jnp.zeros(1), conditioning) == expected


AUTOENCODERS = {
    "kl-f4": (55_312_063, Autoencoder(channel_mult=(1, 2, 4), z_channels=3, embed_dim=3)),
    "kl-f8": (83_653_863, Autoencoder(channel_mult=(1, 2, 4, 4), z_channels=4, embed_dim=4)),
    "kl-f16": (
        69_610_963,
        Autoencoder(
            channel_mult=(1, 1, 2, 2, 4), attention_factors=(16,), z_channels=16, embed_dim=16
        ),
    ),
    "kl-f32": (
        103_880_131,
        Autoencoder(
            channel_mult=(1, 1, 2, 2, 4, 4),
            attention_factors=(16, 32),
            z_channels=64,
            embed_dim=64,
        ),
    ),
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name):
    expected, model = AUTOENCODERS[name]
    f = model.downsampling_factor
    assert name == f"kl-f{f}"
    x, eps = jnp.zeros((1, f, f, 3)), jnp.zeros((1, *model.latent_shape(f, f)))
    assert count(model, x, eps) == expected


@pytest.mark.parametrize(
    ("module", "with_logits", "logits"),
    [
        (TextTransformer(30522, dim=1280, depth=32), 581_994_042, 39_098_682),
        (TextTransformer(30522, dim=640, depth=32), 186_154_682, 19_564_602),
        (TextTransformer(8192, length=92, dim=512, depth=16), 58_858_496, 4_202_496),
    ],
)
def test_text_transformer_lacks_only_the_unused_logits(module, with_logits, logits):
    tokens = jnp.zeros((1, module.length), jnp.int32)
    assert count(module, {"tokens": tokens}) == with_logits - logits


def test_class_label_has_a_row_for_the_null_class():
    assert count(ClassLabel(1000, 512), {"class": jnp.zeros(1, jnp.int32)}) == 512_512
