"""The configuration of a CompVis checkpoint, from the shapes of its tensors.

What shapes do not tell comes from `published`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.interop.conditioner_names import clip_activation, layers_read
from ldm_jax.interop.foreign import data_settings
from ldm_jax.interop.published import Published, find_published
from ldm_jax.interop.tensors import Tensors

# Widths of attention heads that all published models of the kind share.
_CLIP_HEAD_DIM, _BERT_HEAD_DIM = 64, 64
_LAYOUT_VOCABULARY, _RDM_TOKENS = 8192, 11


def infer_settings(path: Path, file: Tensors, components: Mapping[str, Tensors]) -> dict[str, Any]:
    """Returns the groups `task`, `data` and `sample` of the model in a file.

    Args:
      path: of the file, for messages.
      file: the whole of it, for its buffers.
      components: 'first_stage', 'conditioner' and 'unet', under names without their prefixes.

    Raises:
      UserError: a component is missing, or its hyperparameters are not to be found.
    """
    if "first_stage" not in components:
        raise UserError(f"{path}: has no first stage. Legal: a file with first_stage_model.*")
    first_stage = _Shapes(path, components["first_stage"]).first_stage()
    if "unet" not in components:
        alone = {"name": "autoencoder", "model": first_stage}
        return {"task": alone, "data": data_settings(256), "sample": {}}
    unet_shapes = _Shapes(path, components["unet"])
    unet, context, inputs = unet_shapes.unet()
    shape = (unet["channels"], unet["channel_mult"], context, inputs)
    published = find_published(shape, str(path))
    unet |= published.heads
    conditioner: dict[str, Any] = {"name": "none"}
    latent = published.image_size // 2 ** (len(first_stage["channel_mult"]) - 1)
    extra = inputs - unet["out_channels"]
    if "conditioner" in components and not _is_first_stage(components["conditioner"]):
        conditioner = _Shapes(path, components["conditioner"]).conditioner(published)
    elif extra:
        key = "low_res" if extra == 3 else "masked_image"
        conditioner = _identity(key, (latent, latent, extra), "concat")
    elif context:
        conditioner = _identity("clip_embeddings", (_RDM_TOKENS, context), "context")
    task: dict[str, Any] = {
        "name": "latent_diffusion",
        "model": unet,
        "conditioner": conditioner,
        "first_stage": {
            "model": first_stage,
            "scale_factor": _scale_factor(path, file, published),
        },
        "schedule": _schedule(file, published),
        "parameterization": "eps",
        "condition_drop_rate": 0.1 if conditioner.get("null_class", True) else 0.0,
    }
    if conditioner["name"] == "clip_text":
        task["train_conditioner"] = False
    data = data_settings(published.image_size)
    if conditioner["name"] in ("clip_text", "text_transformer") and "key" not in conditioner:
        data["tokenizer"] = {"name": "huggingface", "length": conditioner["length"]}
        if conditioner.get("activation") == "gelu":
            data["tokenizer"]["pad_token"] = "!"  # OpenCLIP pads with id 0
    # A bucket of one: a single prompt, the usual case, costs a single image.
    return {"task": task, "data": data, "sample": {"per_device_batch": 1, **published.sample}}


def open_question(settings: Mapping[str, Any]) -> str | None:
    """Returns the field of `task` that nothing in the file settles, if there is one.

    Stable Diffusion 2's base model predicts eps, its 768 model v, with the same shapes.
    """
    conditioner = settings["task"].get("conditioner", {})
    is_two = conditioner.get("name") == "clip_text" and conditioner.get("activation") == "gelu"
    return "parameterization" if is_two else None


def _identity(key: str, shape: tuple[int, ...], route: str) -> dict[str, Any]:
    return {"name": "identity", "key": key, "shape": shape, "route": route}


def _is_first_stage(conditioner: Tensors) -> bool:
    """Inpainting encodes its masked image with the first stage, and saves that a second time."""
    return any(name.startswith("encoder.down.") for name in conditioner.keys())


def _schedule(file: Tensors, published: Published) -> dict[str, Any]:
    """Returns the schedule; the file's own betas, where it has them, must be those."""
    (start, end), steps = published.beta, 1000
    if "betas" in set(file.keys()):
        betas = np.asarray(file["betas"], np.float64)
        steps = len(betas)
        start, end = float(f"{betas[0]:.5g}"), float(f"{betas[-1]:.5g}")
        linear = np.linspace(start**0.5, end**0.5, len(betas)) ** 2
        if not np.allclose(betas, linear, rtol=1e-3):
            raise UserError("betas: not linear in their square roots. Legal: --config FILE.")
    return {"name": "linear", "num_timesteps": steps, "start": start, "end": end}


def file_scale_factor(file: Tensors) -> float | None:
    """Returns the buffer that scales latents, if the file has it, as its shortest decimal."""
    if "scale_factor" not in set(file.keys()):
        return None
    return float(str(np.asarray(file["scale_factor"]).astype(np.float32).reshape(())))


def _scale_factor(path: Path, file: Tensors, published: Published) -> float:
    factor = file_scale_factor(file)
    if factor is not None:
        return factor
    if published.scale_factor is None:
        raise UserError(
            f"{path}: {published.name} scales its latents by a buffer, scale_factor, which the "
            "file lacks. Legal: --config.task.first_stage.scale_factor=NUMBER."
        )
    return published.scale_factor


class _Shapes:
    """Reads hyperparameters off the shapes of one component."""

    def __init__(self, path: Path, tensors: Tensors):
        self._path = path
        self._shapes = {name: tuple(tensors.info(name).shape) for name in tensors.keys()}

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise UserError(
                f"{self._path}: lacks {name}, from which the model would be told. Legal: a whole "
                "checkpoint, or --config FILE of the model."
            )
        return self._shapes[name]

    def _numbers(self, pattern: str) -> list[int]:
        """Returns the numbers that the pattern's group takes, without repetition, in order."""
        found = (re.match(pattern, name) for name in self._shapes)
        return sorted({int(match[1]) for match in found if match})

    def _has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._shapes)

    def unet(self) -> tuple[dict[str, Any], int, int]:
        """Returns the U-Net's settings but for its heads, its context width and input channels."""
        channels, inputs = self._shape("input_blocks.0.0.weight")[:2]
        outputs = len(self._numbers(r"output_blocks\.(\d+)\."))
        # An output block with something at place 1 or 2 that is no attention ends a level.
        ends = self._numbers(r"output_blocks\.(\d+)\.[12]\.(?:conv|in_layers)")
        levels = len(ends) + 1
        per_level = outputs // levels
        firsts = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
        widths = [self._shape(f"{first}.0.out_layers.3.weight")[0] for first in firsts]
        attention = [2**level for level, first in enumerate(firsts) if self._has(f"{first}.1.")]
        depths = self._numbers(r"middle_block\.1\.transformer_blocks\.(\d+)\.")
        settings: dict[str, Any] = {
            "name": "unet",
            "out_channels": self._shape("out.2.weight")[0],
            "channels": channels,
            "channel_mult": tuple(width // channels for width in widths),
            "num_res_blocks": per_level - 1,
            "attention_factors": tuple(attention),
        }
        context = 0
        if depths:
            settings["transformer_depth"] = len(depths)
            key = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
            context = self._shape(key)[1]
            if len(self._shape("middle_block.1.proj_in.weight")) == 2:
                settings["linear_projections"] = True
        if self._shape(f"{firsts[0]}.0.emb_layers.1.weight")[0] == 2 * widths[0]:
            settings["scale_shift_norm"] = True
        if levels > 1 and not self._numbers(r"input_blocks\.(\d+)\.0\.op\."):
            settings["resblock_updown"] = True
        return settings, context, inputs

    def first_stage(self) -> dict[str, Any]:
        """Returns the first stage's settings."""
        channels, image_channels = self._shape("encoder.conv_in.weight")[:2]
        levels = self._numbers(r"encoder\.down\.(\d+)\.")
        widths = [self._shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in levels]
        attention = [2**level for level in levels if self._has(f"encoder.down.{level}.attn.")]
        settings: dict[str, Any] = {
            "name": "autoencoder_kl",
            "image_channels": image_channels,
            "channels": channels,
            "channel_mult": tuple(width // channels for width in widths),
            "num_res_blocks": len(self._numbers(r"encoder\.down\.0\.block\.(\d+)\.")),
            "attention_factors": tuple(attention),
            "z_channels": self._shape("decoder.conv_in.weight")[1],
            "embed_dim": self._shape("post_quant_conv.weight")[1],
            "mid_attention": self._has("encoder.mid.attn_1."),
        }
        if "quantize.embedding.weight" in self._shapes:
            codes = self._shape("quantize.embedding.weight")[0]
            settings |= {"name": "autoencoder_vq", "num_codes": codes}
        return settings

    def conditioner(self, published: Published) -> dict[str, Any]:
        """Returns the conditioner's settings."""
        if self._has("transformer.text_model."):
            prefix = "transformer.text_model."
            depth = len(self._numbers(r"transformer\.text_model\.encoder\.layers\.(\d+)\."))
            tokens = self._shape(f"{prefix}embeddings.token_embedding.weight")
            length = self._shape(f"{prefix}embeddings.position_embedding.weight")[0]
            return _clip(tokens, length, depth)
        if self._has("model.transformer.resblocks."):
            depth = len(self._numbers(r"model\.transformer\.resblocks\.(\d+)\."))
            length = self._shape("model.positional_embedding")[0]
            return _clip(self._shape("model.token_embedding.weight"), length, depth)
        if "transformer.token_emb.weight" in self._shapes:
            return self._bert()
        if "embedding.weight" in self._shapes:
            rows, dim = self._shape("embedding.weight")
            has_null = rows % 1000 == 1  # 1001 rows: the thousand classes and none of them
            return {
                "name": "class_label",
                "num_classes": rows - has_null,
                "dim": dim,
                "null_class": has_null,
            }
        if "channel_mapper.weight" in self._shapes:
            out_channels, classes = self._shape("channel_mapper.weight")[:2]
            return {
                "name": "spatial_rescaler",
                "num_classes": classes,
                "image_size": published.image_size,
                "out_channels": out_channels,
            }
        raise UserError(
            f"{self._path}: its cond_stage_model is none we know (found "
            f"{next(iter(self._shapes))}). Legal: CLIP, OpenCLIP, BERTEmbedder, ClassEmbedder, "
            "SpatialRescaler, or --config FILE."
        )

    def _bert(self) -> dict[str, Any]:
        vocabulary, dim = self._shape("transformer.token_emb.weight")
        layers = self._numbers(r"transformer\.attn_layers\.layers\.(\d+)\.")
        inner = self._shape("transformer.attn_layers.layers.0.1.to_q.weight")[0]
        settings: dict[str, Any] = {
            "name": "text_transformer",
            "vocab_size": vocabulary,
            "length": self._shape("transformer.pos_emb.emb.weight")[0],
            "dim": dim,
            "depth": len(layers) // 2,
            "num_heads": inner // _BERT_HEAD_DIM,
            "head_dim": _BERT_HEAD_DIM,
            "unused_logits": self._has("transformer.to_logits."),
        }
        if vocabulary == _LAYOUT_VOCABULARY:
            settings["key"] = "layout"
        return settings


def _clip(tokens: tuple[int, ...], length: int, layers: int) -> dict[str, Any]:
    width = tokens[1]
    return {
        "name": "clip_text",
        "vocab_size": tokens[0],
        "length": length,
        "dim": width,
        "depth": layers_read(width, layers),
        "num_heads": width // _CLIP_HEAD_DIM,
        "activation": clip_activation(width),
    }
