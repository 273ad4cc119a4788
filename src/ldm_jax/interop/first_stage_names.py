"""What CompVis and diffusers call the layers of a first stage.

A row of a table is ours, CompVis', diffusers'. CompVis numbers the decoder's levels from the
highest resolution, diffusers from the lowest, which it reaches first.
"""

import re

from ldm_jax.interop.mapping import Cell, Cells
from ldm_jax.models.autoencoder import ConvolutionalFirstStage

# Blocks that do not depend on the depth.
_BLOCKS = {
    "conv_in": ("conv_in", "conv_in"),
    "mid_res_0": ("mid.block_1", "mid_block.resnets.0"),
    "mid_attn": ("mid.attn_1", "mid_block.attentions.0"),
    "mid_res_1": ("mid.block_2", "mid_block.resnets.1"),
    "norm_out": ("norm_out", "conv_norm_out"),
    "conv_out": ("conv_out", "conv_out"),
}
# Layers of residual and of attention blocks.
_LAYERS = {
    "norm_in": ("norm1", "norm1"),
    "conv_in": ("conv1", "conv1"),
    "norm_out": ("norm2", "norm2"),
    "conv_out": ("conv2", "conv2"),
    "skip": ("nin_shortcut", "conv_shortcut"),
    "norm": ("norm", "group_norm"),
    "attn/to_q": ("q", "to_q"),
    "attn/to_k": ("k", "to_k"),
    "attn/to_v": ("v", "to_v"),
    "attn/to_out": ("proj_out", "to_out.0"),
}
_KINDS = {
    "res": ("block.{}", "resnets.{}"),
    "attn": ("attn.{}", "attentions.{}"),
    "downsample": ("downsample", "downsamplers.0"),
    "upsample": ("upsample", "upsamplers.0"),
}
_BLOCK = re.compile(r"(down|up)_(\d+)_(res|attn|downsample|upsample)(?:_(\d+))?")


def compvis_first_stage(model: ConvolutionalFirstStage) -> Cells:
    """Returns where CompVis keeps each layer, below 'first_stage_model.'."""
    return lambda path: _cell(model, path, 0)


def diffusers_first_stage(model: ConvolutionalFirstStage) -> Cells:
    """Returns where diffusers' AutoencoderKL or VQModel keeps each layer."""
    return lambda path: _cell(model, path, 1)


def diffusers_block(model: ConvolutionalFirstStage, path: str) -> str:
    """Returns what diffusers calls one of our blocks, such as 'encoder/mid_attn'."""
    half, _, block = path.partition("/")
    return f"{half}.{_block(model, block, 1)}" if block else half


def _cell(model: ConvolutionalFirstStage, path: str, column: int) -> Cell:
    if path == "codebook":
        return Cell("quantize.embedding.weight")
    half, _, rest = path.partition("/")
    if not rest:  # quant_conv, post_quant_conv
        return Cell(half)
    block, _, layer = rest.partition("/")
    name = f"{half}.{_block(model, block, column)}"
    if not layer:
        return Cell(name)
    if layer == "conv":  # of a resampling
        return Cell(f"{name}.conv")
    axes = 2 if column == 0 and layer.startswith("attn/") else 0
    return Cell(f"{name}.{_LAYERS[layer][column]}", axes=axes)


def _block(model: ConvolutionalFirstStage, block: str, column: int) -> str:
    match = _BLOCK.fullmatch(block)
    if match is None:
        return _BLOCKS[block][column]
    way, number_of_level, kind, number = match.groups()
    if column == 0:
        return f"{way}.{number_of_level}.{_KINDS[kind][0].format(number)}"
    level = int(number_of_level)
    level = level if way == "down" else len(model.channel_mult) - 1 - level
    return f"{way}_blocks.{level}.{_KINDS[kind][1].format(number)}"
