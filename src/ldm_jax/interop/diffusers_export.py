"""The JSON files of a diffusers folder, from our models; the inverse of `diffusers_settings`."""

from typing import Any

import numpy as np

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.conditioning.identity import Identity
from ldm_jax.conditioning.none import NoConditioning
from ldm_jax.conditioning.text_transformer import TextTransformer
from ldm_jax.core.checks import UserError
from ldm_jax.diffusion import schedule
from ldm_jax.interop.diffusers import NULL_CLASS
from ldm_jax.models.autoencoder import ConvolutionalFirstStage
from ldm_jax.models.unet import UNet
from ldm_jax.models.vq_autoencoder import VQAutoencoder

# The release whose fields these are; older and newer ones read them too.
VERSION = "0.42.1"
# Parts that Stable Diffusion's pipeline may do without.
_ABSENT = ("feature_extractor", "image_encoder", "safety_checker")
# Spacings that begin with timestep 1 and end on the noise level of timestep 0.
_OFFSET = ("reference", "offset_leading")
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
_BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}


def unet_config(
    model: UNet, conditioner: Conditioner, in_channels: int, context_dim: int, latent_size: int
) -> dict[str, Any]:
    """Returns unet/config.json: UNet2DConditionModel with spatial transformers, else UNet2DModel.

    Raises:
      UserError: a network that diffusers' classes are not.
    """
    if model.channel_mult[0] != 1:
        raise _no_place(f"channel_mult={model.channel_mult}", "multipliers that begin with 1")
    if model.transformer_depth and model.resblock_updown:
        raise _no_place("resblock_updown=True with transformer_depth", "one of the two")
    levels = range(len(model.channel_mult))
    widths = [model.channels * multiplier for multiplier in model.channel_mult]
    attends = [2**level in model.attention_factors for level in levels]
    config: dict[str, Any] = {
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": widths,
        "dropout": model.dropout,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": in_channels,
        "layers_per_block": model.num_res_blocks,
        "norm_eps": 1e-5,
        "norm_num_groups": model.num_groups,
        "out_channels": model.out_channels,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift_norm else "default",
        "sample_size": latent_size,
    }
    if isinstance(conditioner, ClassLabel) and conditioner.route == "embedding":
        config["num_class_embeds"] = conditioner.num_classes + conditioner.null_class
    if model.transformer_depth:
        return config | {
            "_class_name": "UNet2DConditionModel",
            "attention_head_dim": [model.heads(width) for width in widths],
            "cross_attention_dim": context_dim,
            "down_block_types": [_pick(a, "CrossAttnDownBlock2D", "DownBlock2D") for a in attends],
            "up_block_types": [_pick(a, "CrossAttnUpBlock2D", "UpBlock2D") for a in attends[::-1]],
            "transformer_layers_per_block": model.transformer_depth,
            "use_linear_projection": model.linear_projections,
        }
    sites = {width for width, attending in zip(widths, attends, strict=True) if attending}
    dims = {width // model.heads(width) for width in sites | {widths[-1]}}
    if len(dims) > 1:
        raise _no_place(f"num_heads={model.num_heads} at several widths", "num_head_channels")
    down, up = ("DownBlock2D", "UpBlock2D")
    if model.resblock_updown:
        down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    resample = "resnet" if model.resblock_updown else "conv"
    return config | {
        "_class_name": "UNet2DModel",
        "attention_head_dim": dims.pop(),
        "attn_norm_num_groups": model.num_groups,
        "down_block_types": [_pick(a, "AttnDownBlock2D", down) for a in attends],
        "up_block_types": [_pick(a, "AttnUpBlock2D", up) for a in attends[::-1]],
        "downsample_type": resample,
        "upsample_type": resample,
    }


def first_stage_config(
    model: ConvolutionalFirstStage, image_size: int, scale_factor: float | None
) -> dict[str, Any]:
    """Returns vae/ or vqvae/config.json: AutoencoderKL or VQModel.

    Args:
      model: the first stage.
      image_size: of training, in pixels.
      scale_factor: of the latents; None to say nothing of it.

    Raises:
      UserError: a first stage that diffusers' classes are not.
    """
    if not isinstance(model, ConvolutionalFirstStage):
        raise _no_place(f"a first stage {type(model).__name__}", "autoencoder_kl, autoencoder_vq")
    if model.channel_mult[0] != 1:
        raise _no_place(f"channel_mult={model.channel_mult}", "multipliers that begin with 1")
    attends = [2**level in model.attention_factors for level in range(len(model.channel_mult))]
    config: dict[str, Any] = {
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": [model.channels * multiplier for multiplier in model.channel_mult],
        "down_block_types": [
            _pick(a, "AttnDownEncoderBlock2D", "DownEncoderBlock2D") for a in attends
        ],
        "up_block_types": [
            _pick(a, "AttnUpDecoderBlock2D", "UpDecoderBlock2D") for a in attends[::-1]
        ],
        "in_channels": model.image_channels,
        "latent_channels": model.z_channels,
        "layers_per_block": model.num_res_blocks,
        "mid_block_add_attention": model.mid_attention,
        "norm_num_groups": model.num_groups,
        "out_channels": model.image_channels,
        "sample_size": image_size,
    }
    if scale_factor is not None:
        config["scaling_factor"] = scale_factor
    if isinstance(model, VQAutoencoder):
        return config | {
            "_class_name": "VQModel",
            "num_vq_embeddings": model.num_codes,
            "vq_embed_dim": model.embed_dim,
        }
    if model.z_channels != model.embed_dim:
        raise _no_place(f"z_channels={model.z_channels}, embed_dim={model.embed_dim}", "equal ones")
    return config | {"_class_name": "AutoencoderKL"}


def text_config(conditioner: ClipText | TextTransformer) -> dict[str, Any]:
    """Returns text_encoder/config.json or bert/config.json."""
    if isinstance(conditioner, ClipText):
        return _clip_config(conditioner)
    return _bert_config(conditioner)


def pipeline_index(
    conditioner: Conditioner, first_stage_class: str, scale_factor: float
) -> dict[str, Any]:
    """Returns model_index.json, but for the U-Net's class: the pipeline of this conditioner.

    Raises:
      UserError: a conditioner that no pipeline of diffusers has.
    """
    index: dict[str, Any] = {
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    stage = ["diffusers", first_stage_class]
    if isinstance(conditioner, ClipText):
        absent = {name: [None, None] for name in _ABSENT}
        return (
            index
            | absent
            | {
                "_class_name": "StableDiffusionPipeline",
                "requires_safety_checker": False,
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "vae": stage,
            }
        )
    if isinstance(conditioner, TextTransformer) and conditioner.key == "tokens":
        if conditioner.pooled_dim:
            raise _no_place(f"text_transformer.pooled_dim={conditioner.pooled_dim}", "0")
        return index | {
            "_class_name": "LDMTextToImagePipeline",
            "bert": ["latent_diffusion", "LDMBertModel"],
            "tokenizer": ["transformers", "BertTokenizer"],
            "vqvae": stage,
        }
    if isinstance(conditioner, Identity) and conditioner.key == "low_res":
        if scale_factor != 1.0:
            raise _no_place(f"scale_factor={scale_factor} in super-resolution", "1.0")
        return index | {"_class_name": "LDMSuperResolutionPipeline", "vqvae": stage}
    index |= {"_class_name": "LDMPipeline", "vqvae": stage}
    if isinstance(conditioner, NoConditioning):
        return index
    if isinstance(conditioner, ClassLabel) and conditioner.route == "embedding":
        return index | {NULL_CLASS: conditioner.null_class}
    raise _no_place(
        f"the conditioner {conditioner!r}".split("(")[0].lower(),
        "clip_text, text_transformer, class_label with route=embedding, identity with key=low_res, "
        "none",
    )


def scheduler_config(
    betas: np.ndarray, name: str, parameterization: str, spacing: str
) -> dict[str, Any]:
    """Returns scheduler_config.json of a DDIMScheduler.

    Args:
      betas: [T] float64.
      name: of the noise schedule.
      parameterization: 'eps', 'x0' or 'v'.
      spacing: of the steps.

    Raises:
      UserError: a schedule that diffusers has not.
    """
    config: dict[str, Any] = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "clip_sample": False,
        "num_train_timesteps": len(betas),
        "prediction_type": _PREDICTIONS[parameterization],
        "timestep_spacing": spacing if spacing in ("trailing", "linspace") else "leading",
        "steps_offset": int(spacing in _OFFSET),
        "set_alpha_to_one": spacing not in _OFFSET,
    }
    if name in _BETA_SCHEDULES:
        return config | {
            "beta_schedule": _BETA_SCHEDULES[name],
            "beta_start": float(betas[0]),
            "beta_end": float(betas[-1]),
        }
    if name == "cosine":
        if not np.allclose(betas, schedule.betas("cosine", len(betas))):
            raise _no_place("another cosine_s", "0.008")
        return config | {"beta_schedule": "squaredcos_cap_v2"}
    raise _no_place(f"the schedule {name!r}", "linear, sqrt_linear, cosine")


def _clip_config(model: ClipText) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": model.activation,
        "hidden_size": model.dim,
        "intermediate_size": 4 * model.dim,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": model.length,
        "num_attention_heads": model.num_heads,
        "num_hidden_layers": model.depth,
        "projection_dim": model.dim,
        "vocab_size": model.vocab_size,
        "bos_token_id": model.vocab_size - 2,
        "eos_token_id": model.vocab_size - 1,
    }


def _bert_config(model: TextTransformer) -> dict[str, Any]:
    return {
        "architectures": ["LDMBertModel"],
        "model_type": "ldmbert",
        "activation_function": "gelu",
        "d_model": model.dim,
        "encoder_attention_heads": model.num_heads,
        "encoder_ffn_dim": 4 * model.dim,
        "encoder_layers": model.depth,
        "num_hidden_layers": model.depth,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.length,
        "pad_token_id": 0,
        "scale_embedding": False,
        "vocab_size": model.vocab_size,
    }


def _pick(condition: bool, yes: str, no: str) -> str:
    return yes if condition else no


def _no_place(what: str, legal: str) -> UserError:
    return UserError(f"diffusers has no place for {what}. Legal: {legal}.")
