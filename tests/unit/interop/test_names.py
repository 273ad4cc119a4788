"""What other projects call our layers: names and shapes as published, and none forgotten."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.conditioning import BertText, ClassLabel, ClipText, SpatialRescaler, TextTransformer
from ldm_jax.core.types import Conditioning
from ldm_jax.interop.conditioner_names import (
    compvis_bert,
    compvis_class_label,
    compvis_rescaler,
    diffusers_bert,
    diffusers_class_label,
    open_clip,
    transformers_bert,
    transformers_clip,
)
from ldm_jax.interop.first_stage_names import (
    compvis_first_stage,
    diffusers_block,
    diffusers_first_stage,
)
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.unet_names import (
    compvis_prefix,
    compvis_unet,
    diffusers_prefix,
    diffusers_unet,
)
from ldm_jax.models import Autoencoder, UNet, VQAutoencoder

SMALL = {"channels": 8, "channel_mult": (1, 2, 2), "num_res_blocks": 2, "num_groups": 4}
TRANSFORMER = {"num_heads": 2, "transformer_depth": 2}
# A small network of every kind, and the width of the context that it reads.
UNETS = {
    "heads": (UNet(3, **SMALL, attention_factors=(2, 4), num_heads=4), None),
    "head channels": (UNet(3, **SMALL, attention_factors=(1, 2), num_head_channels=4), None),
    "middle alone": (UNet(3, **SMALL), None),
    "one level": (UNet(3, **{**SMALL, "channel_mult": (1,)}), None),
    "updown": (UNet(3, **SMALL, attention_factors=(2,), num_heads=1, resblock_updown=True), None),
    "scale-shift": (
        UNet(
            3,
            **SMALL,
            attention_factors=(1, 4),
            num_heads=2,
            scale_shift_norm=True,
            resblock_updown=True,
        ),
        None,
    ),
    "transformers": (UNet(3, **SMALL, attention_factors=(1, 4), **TRANSFORMER), 5),
    "linear": (UNet(3, **SMALL, attention_factors=(2,), linear_projections=True, **TRANSFORMER), 5),
}
PUBLISHED = {
    "sd_v1": (
        UNet(4, 320, (1, 2, 4, 4), attention_factors=(1, 2, 4), num_heads=8, transformer_depth=1),
        4,
        768,
    ),
    "sd_v2": (
        UNet(
            4,
            320,
            (1, 2, 4, 4),
            attention_factors=(1, 2, 4),
            num_head_channels=64,
            transformer_depth=1,
            linear_projections=True,
        ),
        4,
        1024,
    ),
    "churches": (
        UNet(
            4,
            192,
            (1, 2, 2, 4, 4),
            attention_factors=(1, 2, 4, 8),
            num_heads=8,
            scale_shift_norm=True,
            resblock_updown=True,
        ),
        4,
        None,
    ),
    "celebahq": (
        UNet(3, 224, (1, 2, 3, 4), attention_factors=(2, 4, 8), num_head_channels=32),
        3,
        None,
    ),
    "cin_f8": (
        UNet(
            4,
            256,
            (1, 2, 4),
            attention_factors=(1, 2, 4),
            num_head_channels=32,
            transformer_depth=1,
        ),
        4,
        512,
    ),
    "semantic": (UNet(3, 128, (1, 4, 8), attention_factors=(8, 16, 32), num_heads=8), 6, None),
}
# Layers that other projects keep as one tensor.
FUSED = re.compile(
    r".*(\.qkv\.(weight|bias)|ff\.net\.0\.proj\.(weight|bias)|in_proj_(weight|bias))"
)


@functools.cache
def shapes_of(model, channels=3, context=None):
    size = model.size_multiple
    tokens = None if context is None else jnp.zeros((1, 2, context))
    args = (jnp.zeros((1, size, size, channels)), jnp.zeros(1), Conditioning(context=tokens))
    return jax.eval_shape(model.init, jax.random.key(0), *args)["params"]


def check_complete(params, entries):
    """Every parameter is in one entry, and only known fusions hold several."""
    paths = [path for entry in entries for path in entry.ours]
    assert sorted(paths) == sorted(flatten(params))
    names = [entry.theirs for entry in entries]
    assert len(names) == len(set(names))
    for entry in entries:
        assert (len(entry.ours) > 1) == bool(FUSED.fullmatch(entry.theirs)), entry


def named_shapes(params, cells):
    entries = make_entries(params, cells)
    fused = [entry for entry in entries if len(entry.ours) > 1]
    assert all(FUSED.fullmatch(entry.theirs) for entry in fused)
    return {entry.theirs: entry.their_shape for entry in entries}


def check_some(found, expected):
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("cells", [compvis_unet, diffusers_unet])
def test_unet_names_are_complete(kind, cells):
    model, context = UNETS[kind]
    params = shapes_of(model, context=context)
    entries = make_entries(params, cells(model))
    check_complete(params, entries)
    if cells is diffusers_unet:  # q, k and v are three there
        assert not [entry for entry in entries if "qkv" in entry.theirs]


@pytest.mark.parametrize(
    ("kind", "heads"), [("heads", {8: 4, 16: 4}), ("head channels", {8: 2, 16: 4})]
)
def test_a_fused_qkv_knows_its_heads(kind, heads):
    model, _ = UNETS[kind]
    fused = [e for e in make_entries(shapes_of(model), compvis_unet(model)) if "qkv" in e.theirs]
    assert fused
    for entry in fused:
        assert entry.heads == heads[entry.their_shape[0] // 3]


def test_the_order_of_fused_parts():
    model, _ = UNETS["heads"]
    found = {e.theirs: e.ours for e in make_entries(shapes_of(model), compvis_unet(model))}
    assert found["middle_block.1.qkv.bias"] == tuple(f"mid_attn/attn/to_{x}/bias" for x in "qkv")
    model, context = UNETS["transformers"]
    for cells, middle in (
        (compvis_unet, "middle_block.1"),
        (diffusers_unet, "mid_block.attentions.0"),
    ):
        entries = make_entries(shapes_of(model, context=context), cells(model))
        found = {e.theirs: e.ours for e in entries}
        # Facts, 2.2: the value first, the gate second.
        ours = tuple(f"mid_attn/block_1/ff/{x}/kernel" for x in ("value", "gate"))
        assert found[f"{middle}.transformer_blocks.1.ff.net.0.proj.weight"] == ours


@functools.cache
def published(name, cells):
    model, channels, context = PUBLISHED[name]
    return named_shapes(shapes_of(model, channels, context), cells(model))


COMPVIS = {
    "sd_v1": {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "time_embed.0.weight": (1280, 320),
        "time_embed.2.bias": (1280,),
        "input_blocks.1.0.in_layers.0.weight": (320,),
        "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
        "input_blocks.1.0.out_layers.3.weight": (320, 320, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight": (320, 320),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias": (320,),
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": (320, 1280),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.9.0.op.weight": (1280, 1280, 3, 3),
        "middle_block.0.in_layers.2.weight": (1280, 1280, 3, 3),
        "middle_block.1.norm.weight": (1280,),
        "middle_block.2.out_layers.3.bias": (1280,),
        "output_blocks.0.0.in_layers.2.weight": (1280, 2560, 3, 3),
        # Levels with attention have it before the upsampling, at .1.
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "out.0.weight": (320,),
        "out.2.weight": (4, 320, 3, 3),
    },
    "sd_v2": {
        "middle_block.1.proj_in.weight": (1280, 1280),
        "middle_block.1.proj_out.weight": (1280, 1280),
        "middle_block.1.transformer_blocks.0.attn2.to_v.weight": (1280, 1024),
    },
    "churches": {
        "input_blocks.1.1.qkv.weight": (576, 192, 1),
        "input_blocks.1.1.qkv.bias": (576,),
        "input_blocks.1.1.proj_out.weight": (192, 192, 1),
        "input_blocks.1.0.emb_layers.1.weight": (384, 768),
        "input_blocks.3.0.in_layers.2.weight": (192, 192, 3, 3),
        "input_blocks.12.0.out_layers.3.weight": (768, 768, 3, 3),
        "output_blocks.2.1.in_layers.2.weight": (768, 768, 3, 3),
        "output_blocks.5.2.in_layers.2.weight": (768, 768, 3, 3),
        "output_blocks.11.2.emb_layers.1.weight": (768, 768),
        "output_blocks.14.1.qkv.weight": (576, 192, 1),
    },
    "celebahq": {
        "middle_block.1.qkv.weight": (2688, 896, 1),
        "output_blocks.2.2.conv.weight": (896, 896, 3, 3),
        "output_blocks.8.2.conv.weight": (448, 448, 3, 3),
    },
    "semantic": {
        "input_blocks.0.0.weight": (128, 6, 3, 3),
        "middle_block.1.qkv.weight": (3072, 1024, 1),
        "output_blocks.2.1.conv.weight": (1024, 1024, 3, 3),
        "output_blocks.5.1.conv.weight": (512, 512, 3, 3),
    },
}
DIFFUSERS = {
    "sd_v1": {
        "conv_in.weight": (320, 4, 3, 3),
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.resnets.0.norm1.weight": (320,),
        "down_blocks.0.resnets.1.time_emb_proj.weight": (320, 1280),
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "down_blocks.0.downsamplers.0.conv.weight": (320, 320, 3, 3),
        "down_blocks.1.resnets.0.conv_shortcut.weight": (640, 320, 1, 1),
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "mid_block.resnets.1.conv2.weight": (1280, 1280, 3, 3),
        "up_blocks.0.resnets.0.conv1.weight": (1280, 2560, 3, 3),
        "up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
        "up_blocks.1.attentions.2.norm.weight": (1280,),
        "up_blocks.3.resnets.2.conv_shortcut.weight": (320, 640, 1, 1),
        "conv_norm_out.weight": (320,),
        "conv_out.weight": (4, 320, 3, 3),
    },
    "churches": {
        "down_blocks.0.attentions.0.to_q.weight": (192, 192),
        "down_blocks.0.attentions.0.group_norm.weight": (192,),
        "down_blocks.0.downsamplers.0.conv1.weight": (192, 192, 3, 3),
        "up_blocks.0.upsamplers.0.time_emb_proj.weight": (1536, 768),
        "up_blocks.4.attentions.2.to_out.0.weight": (192, 192),
    },
}


@pytest.mark.parametrize("name", COMPVIS)
def test_compvis_names_of_published_unets(name):
    check_some(published(name, compvis_unet), COMPVIS[name])


@pytest.mark.parametrize("name", DIFFUSERS)
def test_diffusers_names_of_published_unets(name):
    check_some(published(name, diffusers_unet), DIFFUSERS[name])


# Facts, 4.3: blocks with attention, by width.
SITES = {
    "sd_v1": {
        320: "i.1 i.2 o.9 o.10 o.11",
        640: "i.4 i.5 o.6 o.7 o.8",
        1280: "i.7 i.8 mid o.3 o.4 o.5",
    },
    "churches": {
        192: "i.1 i.2 o.12 o.13 o.14",
        384: "i.4 i.5 i.7 i.8 o.6 o.7 o.8 o.9 o.10 o.11",
        768: "i.10 i.11 mid o.3 o.4 o.5",
    },
    "celebahq": {
        448: "i.4 i.5 o.6 o.7 o.8",
        672: "i.7 i.8 o.3 o.4 o.5",
        896: "i.10 i.11 mid o.0 o.1 o.2",
    },
    "cin_f8": {
        256: "i.1 i.2 o.6 o.7 o.8",
        512: "i.4 i.5 o.3 o.4 o.5",
        1024: "i.7 i.8 mid o.0 o.1 o.2",
    },
    "semantic": {1024: "mid"},
}


@pytest.mark.parametrize("name", SITES)
def test_compvis_blocks_with_attention(name):
    found = {}
    for tensor, (width, *_) in published(name, compvis_unet).items():
        if match := re.fullmatch(
            r"(?:(in|out)put_blocks\.(\d+)|middle_block)\.1\.norm\.weight", tensor
        ):
            way, number = match.groups()
            found.setdefault(width, set()).add(f"{way[0]}.{number}" if way else "mid")
    assert found == {width: set(sites.split()) for width, sites in SITES[name].items()}


def test_prefixes_of_blocks():
    model = PUBLISHED["sd_v1"][0]
    assert compvis_prefix(model, "up_3_upsample") == "output_blocks.2.1"
    assert compvis_prefix(model, "up_0_attn_2") == "output_blocks.11.1"
    assert compvis_prefix(model, "mid_attn") == "middle_block.1"
    assert diffusers_prefix(model, "up_3_upsample") == "up_blocks.0.upsamplers.0"
    assert diffusers_prefix(model, "down_2_res_1") == "down_blocks.2.resnets.1"
    assert diffusers_prefix(model, "norm_out") == "conv_norm_out"


FIRST_STAGES = {
    "kl_f8": Autoencoder(),
    "vq_f8": VQAutoencoder(channel_mult=(1, 2, 2, 4), attention_factors=(8,), num_codes=16384),
    "vq_f4_noattn": VQAutoencoder(
        channel_mult=(1, 2, 4), z_channels=3, embed_dim=3, mid_attention=False
    ),
}
COMPVIS_FIRST_STAGES = {
    "kl_f8": {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "encoder.mid.attn_1.norm.weight": (512,),
        "encoder.norm_out.weight": (512,),
        "encoder.conv_out.weight": (8, 512, 3, 3),
        "quant_conv.weight": (8, 8, 1, 1),
        "post_quant_conv.weight": (4, 4, 1, 1),
        "decoder.conv_in.weight": (512, 4, 3, 3),
        "decoder.mid.block_2.conv2.weight": (512, 512, 3, 3),
        # Level 0 is the highest resolution, on the way up too.
        "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "decoder.up.1.upsample.conv.weight": (256, 256, 3, 3),
        "decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "decoder.up.0.block.2.norm2.bias": (128,),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    },
    "vq_f8": {
        "quantize.embedding.weight": (16384, 4),
        "encoder.down.3.attn.1.proj_out.weight": (512, 512, 1, 1),
        "decoder.up.3.attn.2.k.bias": (512,),
        "encoder.conv_out.weight": (4, 512, 3, 3),
        "quant_conv.weight": (4, 4, 1, 1),
    },
}
DIFFUSERS_FIRST_STAGES = {
    "kl_f8": {
        "encoder.down_blocks.0.downsamplers.0.conv.weight": (128, 128, 3, 3),
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
        "encoder.mid_block.attentions.0.to_q.weight": (512, 512),
        "encoder.mid_block.attentions.0.group_norm.weight": (512,),
        "encoder.conv_norm_out.weight": (512,),
        "decoder.mid_block.resnets.1.conv2.weight": (512, 512, 3, 3),
        # Block 0 is reached first: the lowest resolution.
        "decoder.up_blocks.0.upsamplers.0.conv.weight": (512, 512, 3, 3),
        "decoder.up_blocks.2.upsamplers.0.conv.weight": (256, 256, 3, 3),
        "decoder.up_blocks.3.resnets.0.conv_shortcut.weight": (128, 256, 1, 1),
    },
    "vq_f8": {
        "quantize.embedding.weight": (16384, 4),
        "encoder.down_blocks.3.attentions.1.to_out.0.weight": (512, 512),
        "decoder.up_blocks.0.attentions.2.to_k.bias": (512,),
    },
}


@functools.cache
def first_stage_shapes(name):
    model = FIRST_STAGES[name]
    f = model.downsampling_factor
    args = (jnp.zeros((1, f, f, 3)), jnp.zeros((1, 1, 1, model.embed_dim)))
    return jax.eval_shape(model.init, jax.random.key(0), *args)["params"]


@pytest.mark.parametrize("name", FIRST_STAGES)
@pytest.mark.parametrize("cells", [compvis_first_stage, diffusers_first_stage])
def test_first_stage_names_are_complete(name, cells):
    params = first_stage_shapes(name)
    check_complete(params, make_entries(params, cells(FIRST_STAGES[name])))


@pytest.mark.parametrize("name", COMPVIS_FIRST_STAGES)
def test_compvis_names_of_first_stages(name):
    cells = compvis_first_stage(FIRST_STAGES[name])
    check_some(named_shapes(first_stage_shapes(name), cells), COMPVIS_FIRST_STAGES[name])


@pytest.mark.parametrize("name", DIFFUSERS_FIRST_STAGES)
def test_diffusers_names_of_first_stages(name):
    cells = diffusers_first_stage(FIRST_STAGES[name])
    check_some(named_shapes(first_stage_shapes(name), cells), DIFFUSERS_FIRST_STAGES[name])


def test_diffusers_block_of_a_first_stage():
    model = FIRST_STAGES["kl_f8"]
    assert diffusers_block(model, "encoder/mid_attn") == "encoder.mid_block.attentions.0"
    assert diffusers_block(model, "decoder/up_3_res_2") == "decoder.up_blocks.0.resnets.2"
    assert diffusers_block(model, "quant_conv") == "quant_conv"


VIT_L = ClipText()
VIT_H = ClipText(dim=1024, depth=23, num_heads=16, activation="gelu")
BERT = TextTransformer(30522, unused_logits=True)
TOKENS = {"tokens": jnp.zeros((1, 77), jnp.int32)}
CONDITIONERS = {
    "transformers": (
        VIT_L,
        transformers_clip,
        TOKENS,
        {
            "embeddings.token_embedding.weight": (49408, 768),
            "embeddings.position_embedding.weight": (77, 768),
            "encoder.layers.0.layer_norm1.weight": (768,),
            "encoder.layers.11.self_attn.q_proj.bias": (768,),
            "encoder.layers.11.self_attn.out_proj.weight": (768, 768),
            "encoder.layers.3.mlp.fc1.weight": (3072, 768),
            "encoder.layers.3.mlp.fc2.weight": (768, 3072),
            "final_layer_norm.bias": (768,),
        },
    ),
    "open_clip": (
        VIT_H,
        open_clip,
        TOKENS,
        {
            "token_embedding.weight": (49408, 1024),
            "positional_embedding": (77, 1024),
            "transformer.resblocks.0.ln_1.weight": (1024,),
            "transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
            "transformer.resblocks.22.attn.in_proj_bias": (3072,),
            "transformer.resblocks.22.attn.out_proj.weight": (1024, 1024),
            "transformer.resblocks.5.mlp.c_fc.weight": (4096, 1024),
            "transformer.resblocks.5.mlp.c_proj.bias": (1024,),
            "ln_final.weight": (1024,),
        },
    ),
    "transformers bert": (
        BertText(dim=768, depth=12),
        transformers_bert,
        TOKENS,
        {
            "embeddings.word_embeddings.weight": (30522, 768),
            "embeddings.position_embeddings.weight": (512, 768),
            "embeddings.token_type_embeddings.weight": (2, 768),
            "embeddings.LayerNorm.bias": (768,),
            "encoder.layer.0.attention.self.query.weight": (768, 768),
            "encoder.layer.11.attention.output.dense.bias": (768,),
            "encoder.layer.11.attention.output.LayerNorm.weight": (768,),
            "encoder.layer.3.intermediate.dense.weight": (3072, 768),
            "encoder.layer.3.output.dense.weight": (768, 3072),
            "encoder.layer.3.output.LayerNorm.weight": (768,),
        },
    ),
    "compvis bert": (
        BERT,
        compvis_bert,
        TOKENS,
        {
            "transformer.token_emb.weight": (30522, 1280),
            "transformer.pos_emb.emb.weight": (77, 1280),
            # Attention at even places, feed-forward at odd ones.
            "transformer.attn_layers.layers.0.0.weight": (1280,),
            "transformer.attn_layers.layers.0.1.to_q.weight": (512, 1280),
            "transformer.attn_layers.layers.62.1.to_out.weight": (1280, 512),
            "transformer.attn_layers.layers.1.0.bias": (1280,),
            "transformer.attn_layers.layers.1.1.net.0.0.weight": (5120, 1280),
            "transformer.attn_layers.layers.63.1.net.2.weight": (1280, 5120),
            "transformer.norm.weight": (1280,),
            "transformer.to_logits.weight": (30522, 1280),
        },
    ),
    "diffusers bert": (
        BERT,
        diffusers_bert,
        TOKENS,
        {
            "model.embed_tokens.weight": (30522, 1280),
            "model.embed_positions.weight": (77, 1280),
            "model.layers.31.self_attn.q_proj.weight": (512, 1280),
            "model.layers.0.self_attn_layer_norm.weight": (1280,),
            "model.layers.0.fc1.weight": (5120, 1280),
            "model.layers.0.final_layer_norm.weight": (1280,),
            "model.layer_norm.bias": (1280,),
            "to_logits.bias": (30522,),
        },
    ),
    "compvis classes": (
        ClassLabel(1000, 512),
        compvis_class_label,
        {"class": jnp.zeros((1,), jnp.int32)},
        {"embedding.weight": (1001, 512)},
    ),
    "diffusers classes": (
        ClassLabel(10, 512, "embedding"),
        diffusers_class_label,
        {"class": jnp.zeros((1,), jnp.int32)},
        {"class_embedding.weight": (11, 512)},
    ),
    "rescaler": (
        SpatialRescaler(182, 8),
        compvis_rescaler,
        {"segmentation": jnp.zeros((1, 8, 8), jnp.int32)},
        {"channel_mapper.weight": (3, 182, 1, 1)},
    ),
}


@pytest.mark.parametrize("name", CONDITIONERS)
def test_conditioner_names(name):
    module, cells, batch, expected = CONDITIONERS[name]
    params = jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
    entries = make_entries(params, cells(module))
    check_complete(params, entries)
    check_some({entry.theirs: entry.their_shape for entry in entries}, expected)


def test_open_clip_keeps_q_k_and_v_in_one_piece_each():
    params = {"layer_0": {"attn": {f"to_{x}": {"bias": jnp.zeros((4,))} for x in "kqv"}}}
    [entry] = make_entries(params, open_clip(VIT_H))
    assert entry.theirs == "transformer.resblocks.0.attn.in_proj_bias"
    assert entry.ours == tuple(f"layer_0/attn/to_{x}/bias" for x in "qkv")
    assert entry.heads == 0
