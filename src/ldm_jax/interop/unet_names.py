"""What CompVis and diffusers call the layers of the U-Net.

A row of a table is ours, CompVis', diffusers'. Block names come from the U-Net's own numbering:
CompVis counts input and output blocks through, diffusers counts levels from the first one reached.
"""

import re

from ldm_jax.interop.mapping import Cell, Cells
from ldm_jax.models.unet import UNet

# Our block, and its prefix in CompVis and in diffusers, where they do not depend on the depth.
_FIXED = {
    "conv_in": ("input_blocks.0.0", "conv_in"),
    "time_mlp_0": ("time_embed.0", "time_embedding.linear_1"),
    "time_mlp_1": ("time_embed.2", "time_embedding.linear_2"),
    "mid_res_0": ("middle_block.0", "mid_block.resnets.0"),
    "mid_attn": ("middle_block.1", "mid_block.attentions.0"),
    "mid_res_1": ("middle_block.2", "mid_block.resnets.1"),
    "norm_out": ("out.0", "conv_norm_out"),
    "conv_out": ("out.2", "conv_out"),
}

# Layers of a residual block, also of one that changes the resolution.
_RES = {
    "norm_in": ("in_layers.0", "norm1"),
    "conv_in": ("in_layers.2", "conv1"),
    "emb_proj": ("emb_layers.1", "time_emb_proj"),
    "norm_out": ("out_layers.0", "norm2"),
    "conv_out": ("out_layers.3", "conv2"),
    "skip": ("skip_connection", "conv_shortcut"),
}

# Layers of a self-attention block; CompVis keeps q, k and v in one, head by head.
_SELF_ATTENTION = {
    "norm": ("norm", "group_norm"),
    "attn/to_q": ("qkv", "to_q"),
    "attn/to_k": ("qkv", "to_k"),
    "attn/to_v": ("qkv", "to_v"),
    "attn/to_out": ("proj_out", "to_out.0"),
}

# Layers of a spatial transformer; both projects agree. {} is the number of the block.
_TRANSFORMER = {
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "norm_self": "transformer_blocks.{}.norm1",
    "norm_cross": "transformer_blocks.{}.norm2",
    "norm_ff": "transformer_blocks.{}.norm3",
    "self_attn/to_q": "transformer_blocks.{}.attn1.to_q",
    "self_attn/to_k": "transformer_blocks.{}.attn1.to_k",
    "self_attn/to_v": "transformer_blocks.{}.attn1.to_v",
    "self_attn/to_out": "transformer_blocks.{}.attn1.to_out.0",
    "cross_attn/to_q": "transformer_blocks.{}.attn2.to_q",
    "cross_attn/to_k": "transformer_blocks.{}.attn2.to_k",
    "cross_attn/to_v": "transformer_blocks.{}.attn2.to_v",
    "cross_attn/to_out": "transformer_blocks.{}.attn2.to_out.0",
    "ff/value": "transformer_blocks.{}.ff.net.0.proj",
    "ff/gate": "transformer_blocks.{}.ff.net.0.proj",
    "ff/out": "transformer_blocks.{}.ff.net.2",
}
_QKV = {"attn/to_q": 0, "attn/to_k": 1, "attn/to_v": 2}

_BLOCK = re.compile(r"(down|up)_(\d+)_(res|attn|downsample|upsample)(?:_(\d+))?")


def compvis_prefix(model: UNet, block: str) -> str:
    """Returns what CompVis calls one of our blocks, below 'model.diffusion_model.'."""
    if block in _FIXED:
        return _FIXED[block][0]
    depth, per_level = len(model.channel_mult), model.num_res_blocks + 1
    way, level, kind, number = _parse(block)
    if kind in ("res", "attn"):
        first = 1 + level * per_level if way == "down" else (depth - 1 - level) * per_level
        blocks = "input_blocks" if way == "down" else "output_blocks"
        return f"{blocks}.{first + number}.{int(kind == 'attn')}"
    if kind == "downsample":
        return f"input_blocks.{(level + 1) * per_level}.0"
    # The upsampling stands behind what else is in its level's last block.
    place = 2 if 2**level in model.attention_factors else 1
    return f"output_blocks.{(depth - level) * per_level - 1}.{place}"


def diffusers_prefix(model: UNet, block: str) -> str:
    """Returns what diffusers' UNet2DModel and UNet2DConditionModel call one of our blocks."""
    if block in _FIXED:
        return _FIXED[block][1]
    way, level, kind, number = _parse(block)
    number_of_level = level if way == "down" else len(model.channel_mult) - 1 - level
    plural = {"res": "resnets", "attn": "attentions"}.get(kind, f"{kind}rs")
    return f"{way}_blocks.{number_of_level}.{plural}.{number}"


def compvis_unet(model: UNet) -> Cells:
    """Returns where CompVis keeps each layer of this U-Net, below 'model.diffusion_model.'."""

    def cells(path: str) -> Cell:
        block, _, layer = path.partition("/")
        name = compvis_prefix(model, block)
        if not layer:
            return Cell(name)
        if layer == "conv":  # of a resampling
            return Cell(f"{name}.{'op' if block.startswith('down') else 'conv'}")
        if layer in _RES:
            return Cell(f"{name}.{_RES[layer][0]}")
        if model.transformer_depth:
            return _transformer_cell(model, name, layer)
        cell = Cell(f"{name}.{_SELF_ATTENTION[layer][0]}", axes=int(layer != "norm"))
        if layer not in _QKV:
            return cell
        return cell._replace(part=_QKV[layer], heads=model.heads(_width(model, block)))

    return cells


def diffusers_unet(model: UNet) -> Cells:
    """Returns where diffusers' UNet2DModel or UNet2DConditionModel keeps each layer."""

    def cells(path: str) -> Cell:
        block, _, layer = path.partition("/")
        name = diffusers_prefix(model, block)
        if not layer:
            return Cell(name)
        if layer == "conv":
            return Cell(f"{name}.conv")
        if layer in _RES:
            return Cell(f"{name}.{_RES[layer][1]}")
        if model.transformer_depth:
            return _transformer_cell(model, name, layer)
        return Cell(f"{name}.{_SELF_ATTENTION[layer][1]}")

    return cells


def _transformer_cell(model: UNet, name: str, layer: str) -> Cell:
    number = 0
    if layer.startswith("block_"):
        block, _, layer = layer.partition("/")
        number = int(block.removeprefix("block_"))
    axes = 2 if layer.startswith("proj_") and not model.linear_projections else 0
    theirs = _TRANSFORMER[layer].format(number)
    return Cell(f"{name}.{theirs}", part=int(layer == "ff/gate"), axes=axes)


def _parse(block: str) -> tuple[str, int, str, int]:
    match = _BLOCK.fullmatch(block)
    assert match, block
    way, level, kind, number = match.groups()
    return way, int(level), kind, int(number or 0)


def _width(model: UNet, block: str) -> int:
    level = len(model.channel_mult) - 1 if block == "mid_attn" else _parse(block)[1]
    return model.channels * model.channel_mult[level]
