"""The configuration that the JSON files of a diffusers folder amount to.

Whatever would change a network's numbers and has no counterpart here is an error. What would change
sampling alone becomes a note.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.core.checks import UserError

Json = Mapping[str, Any]

# Fields with one legal value each; absent is legal as well.
_UNET_FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_VAE_FIXED = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "lookup_from_codebook": False,
    "norm_type": "group",
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
_CLIP_FIXED = {"layer_norm_eps": 1e-5}
_BERT_FIXED = {"activation_function": "gelu", "scale_embedding": False}
_SCHEDULER_FIXED = {"rescale_betas_zero_snr": False, "trained_betas": None}

_CONDITIONAL_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_CONDITIONAL_UP_BLOCKS = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}
_PLAIN_BLOCKS = {"AttnDownBlock2D": True, "DownBlock2D": False, "ResnetDownsampleBlock2D": False}
_PLAIN_UP_BLOCKS = {"AttnUpBlock2D": True, "UpBlock2D": False, "ResnetUpsampleBlock2D": False}
_ENCODER_BLOCKS = {"AttnDownEncoderBlock2D": True, "DownEncoderBlock2D": False}
_DECODER_BLOCKS = {"AttnUpDecoderBlock2D": True, "UpDecoderBlock2D": False}

_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear"}


def unet_settings(config: Json) -> dict[str, Any]:
    """Returns the settings of `UNet` for unet/config.json.

    Raises:
      UserError: a network that ours is not.
    """
    kind = config.get("_class_name")
    if kind not in ("UNet2DModel", "UNet2DConditionModel"):
        raise UserError(f"unet/config.json: got {kind}. Legal: UNet2DModel, UNet2DConditionModel.")
    _check_fixed("unet", config, _UNET_FIXED)
    conditional = kind == "UNet2DConditionModel"
    widths = tuple(config["block_out_channels"])
    downs, ups = (
        (_CONDITIONAL_BLOCKS, _CONDITIONAL_UP_BLOCKS)
        if conditional
        else (_PLAIN_BLOCKS, _PLAIN_UP_BLOCKS)
    )
    levels = _attention_levels("unet", config, downs, ups)
    settings: dict[str, Any] = {
        "name": "unet",
        "out_channels": config["out_channels"],
        "channels": widths[0],
        "channel_mult": _multipliers("unet", widths),
        "num_res_blocks": _same("unet", "layers_per_block", config["layers_per_block"]),
        "attention_factors": tuple(2**level for level in levels),
        "num_groups": config.get("norm_num_groups", 32),
        "dropout": float(config.get("dropout", 0.0)),
    }
    if config.get("resnet_time_scale_shift", "default") == "scale_shift":
        settings["scale_shift_norm"] = True
        if not conditional and config.get("attn_norm_num_groups") != settings["num_groups"]:
            raise UserError(
                "unet/config.json: with resnet_time_scale_shift='scale_shift' the middle's "
                f"attention needs attn_norm_num_groups={settings['num_groups']}, got "
                f"{config.get('attn_norm_num_groups')}."
            )
    if conditional:
        return settings | _transformers(config, widths, levels)
    if not config.get("add_attention", True):
        raise UserError("unet/config.json: add_attention=False. Legal: true.")
    if _resnet_resampling(config, levels):
        settings["resblock_updown"] = True
    head_dim = config.get("attention_head_dim", 8)
    return settings | ({"num_heads": 1} if head_dim is None else {"num_head_channels": head_dim})


def _transformers(config: Json, widths: tuple[int, ...], levels: list[int]) -> dict[str, Any]:
    # Under the name attention_head_dim this class keeps the number of heads.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    per_level = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    sites = {*levels, len(widths) - 1}
    counts = {per_level[i] for i in sites}
    dims = {widths[i] / per_level[i] for i in sites}
    if len(counts) == 1:
        shared = {"num_heads": counts.pop()}
    elif len(dims) == 1:
        shared = {"num_head_channels": int(dims.pop())}
    else:
        raise UserError(
            f"unet/config.json: attention_head_dim={heads} gives neither one number of heads nor "
            "one head width for all levels."
        )
    return shared | {
        "transformer_depth": _same(
            "unet", "transformer_layers_per_block", config.get("transformer_layers_per_block", 1)
        ),
        "linear_projections": bool(config.get("use_linear_projection", False)),
    }


def _resnet_resampling(config: Json, levels: list[int]) -> bool:
    """Returns whether residual blocks change the resolution; all of them or none."""
    last = len(config["block_out_channels"]) - 1
    found = set()
    # The last level does not go down, and level 0, the last of the way up, does not go up.
    for way, still, blocks in (
        ("down", last, config["down_block_types"]),
        ("up", 0, config["up_block_types"][::-1]),
    ):
        attending = config.get(f"{way}sample_type", "conv") == "resnet"
        for level, block in enumerate(blocks):
            if level != still:
                found.add(attending if level in levels else block.startswith("Resnet"))
    if len(found) > 1:
        raise UserError(
            "unet/config.json: some levels resample by residual blocks and some by convolutions. "
            "Legal: one of the two everywhere."
        )
    return found == {True}


def first_stage_settings(config: Json, where: str) -> tuple[dict[str, Any], float]:
    """Returns the settings of a first stage for vae/ or vqvae/config.json, and its scale factor.

    Raises:
      UserError: a model that ours is not.
    """
    kind = config.get("_class_name")
    if kind not in ("AutoencoderKL", "VQModel"):
        raise UserError(f"{where}/config.json: got {kind}. Legal: AutoencoderKL, VQModel.")
    _check_fixed(where, config, _VAE_FIXED)
    if config.get("shift_factor"):
        raise UserError(f"{where}/config.json: shift_factor={config['shift_factor']}. Legal: null.")
    if config["in_channels"] != config["out_channels"]:
        raise UserError(f"{where}/config.json: in_channels and out_channels differ. Legal: equal.")
    widths = tuple(config["block_out_channels"])
    levels = _attention_levels(where, config, _ENCODER_BLOCKS, _DECODER_BLOCKS)
    latent = config["latent_channels"]
    settings: dict[str, Any] = {
        "name": "autoencoder_kl",
        "image_channels": config["in_channels"],
        "channels": widths[0],
        "channel_mult": _multipliers(where, widths),
        "num_res_blocks": config["layers_per_block"],
        "attention_factors": tuple(2**level for level in levels),
        "z_channels": latent,
        "embed_dim": latent,
        "mid_attention": bool(config.get("mid_block_add_attention", True)),
        "num_groups": config.get("norm_num_groups", 32),
    }
    if kind == "AutoencoderKL":
        return settings, float(config.get("scaling_factor", 0.18215))
    settings |= {
        "name": "autoencoder_vq",
        "embed_dim": config.get("vq_embed_dim") or latent,
        "num_codes": config["num_vq_embeddings"],
    }
    # The first folders of such models say nothing; their latents were not scaled.
    return settings, float(config.get("scaling_factor", 1.0))


def clip_settings(config: Json) -> dict[str, Any]:
    """Returns the settings of `ClipText` for text_encoder/config.json.

    Raises:
      UserError: a text encoder that ours is not.
    """
    kind = config.get("architectures") or [config.get("model_type")]
    if config.get("model_type") not in ("clip_text_model", None) or "hidden_size" not in config:
        raise UserError(f"text_encoder/config.json: got {kind[0]}. Legal: CLIPTextModel.")
    _check_fixed("text_encoder", config, _CLIP_FIXED)
    if config["intermediate_size"] != 4 * config["hidden_size"]:
        raise UserError("text_encoder/config.json: intermediate_size must be 4 x hidden_size.")
    return {
        "name": "clip_text",
        "vocab_size": config.get("vocab_size", 49408),
        "length": config.get("max_position_embeddings", 77),
        "dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "activation": config.get("hidden_act", "quick_gelu"),
    }


def bert_settings(config: Json) -> dict[str, Any]:
    """Returns the settings of `TextTransformer` for bert/config.json.

    Raises:
      UserError: a text encoder that ours is not.
    """
    if config.get("model_type") != "ldmbert":
        raise UserError(f"bert/config.json: got {config.get('model_type')}. Legal: ldmbert.")
    _check_fixed("bert", config, _BERT_FIXED)
    if config["encoder_ffn_dim"] != 4 * config["d_model"]:
        raise UserError("bert/config.json: encoder_ffn_dim must be 4 x d_model.")
    return {
        "name": "text_transformer",
        "vocab_size": config["vocab_size"],
        "length": config["max_position_embeddings"],
        "dim": config["d_model"],
        "depth": config["encoder_layers"],
        "num_heads": config["encoder_attention_heads"],
        "head_dim": config["head_dim"],
        "unused_logits": True,
    }


def schedule_settings(config: Json) -> tuple[dict[str, Any], str, str]:
    """Returns schedule, parameterisation and spacing for scheduler/scheduler_config.json.

    Raises:
      UserError: a schedule or a table of steps that we have not.
    """
    _check_fixed("scheduler", config, _SCHEDULER_FIXED)
    steps = config.get("num_train_timesteps", 1000)
    name = config.get("beta_schedule", "linear")
    if name == "squaredcos_cap_v2":
        schedule = {"name": "cosine", "num_timesteps": steps}
    elif name in _BETA_SCHEDULES:
        schedule = {
            "name": _BETA_SCHEDULES[name],
            "num_timesteps": steps,
            "start": config.get("beta_start", 0.0001),
            "end": config.get("beta_end", 0.02),
        }
    else:
        legal = ", ".join([*_BETA_SCHEDULES, "squaredcos_cap_v2"])
        raise UserError(f"scheduler: beta_schedule={name!r}. Legal: {legal}.")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise UserError(
            f"scheduler: prediction_type={prediction!r}. Legal: {', '.join(_PREDICTIONS)}."
        )
    return schedule, _PREDICTIONS[prediction], _spacing(config)


def _spacing(config: Json) -> str:
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in ("leading", "trailing", "linspace"):
        raise UserError(
            f"scheduler: timestep_spacing={spacing!r}. Legal: leading, trailing, linspace."
        )
    is_offset = spacing == "leading" and config.get("steps_offset", 0) == 1
    return "offset_leading" if is_offset else spacing


def scheduler_notes(config: Json) -> list[str]:
    """Returns in what sampling here differs from what a scheduler's configuration says."""
    kind = config.get("_class_name", "DDIMScheduler")
    if kind not in ("DDIMScheduler", "DDPMScheduler"):
        return [f"sampling will use ddim; the folder's own sampler is {kind}"]
    notes = []
    spacing = config.get("timestep_spacing", "leading")
    to_one = config.get("set_alpha_to_one", True)
    if spacing == "linspace":
        notes.append("linspace steps land on the next timestep here, a whole stride away there")
    elif to_one == (_spacing(config) == "offset_leading"):
        lands = "noise level 0" if to_one else "clean data"
        notes.append(f"the last step lands on {lands} here; set_alpha_to_one={to_one} is not read")
    for field in ("clip_sample", "thresholding"):
        if config.get(field, False):
            notes.append(f"{field}=True is not applied here")
    return notes


def _check_fixed(where: str, config: Json, fixed: Json) -> None:
    for key, legal in fixed.items():
        if key in config and config[key] != legal:
            raise UserError(f"{where}/config.json: {key}={config[key]!r}. Legal: {legal!r}.")


def _attention_levels(
    where: str, config: Json, downs: Mapping[str, bool], ups: Mapping[str, bool]
) -> list[int]:
    """Returns the levels with attention, which the way up must mirror."""
    found = []
    for key, legal in (("down_block_types", downs), ("up_block_types", ups)):
        for block in config[key]:
            if block not in legal:
                raise UserError(
                    f"{where}/config.json: {key} has {block}. Legal: {', '.join(legal)}."
                )
        found.append([legal[block] for block in config[key]])
    down, up = found
    if down != up[::-1] or len(down) != len(config["block_out_channels"]):
        raise UserError(f"{where}/config.json: up_block_types must mirror down_block_types.")
    return [level for level, attends in enumerate(down) if attends]


def _multipliers(where: str, widths: tuple[int, ...]) -> tuple[int, ...]:
    if any(width % widths[0] for width in widths):
        raise UserError(
            f"{where}/config.json: block_out_channels={widths}. Legal: multiples of the first."
        )
    return tuple(width // widths[0] for width in widths)


def _same(where: str, key: str, value: Any) -> int:
    values = {value} if isinstance(value, int) else set(value)
    if len(values) != 1:
        raise UserError(f"{where}/config.json: {key}={value}. Legal: one number for all levels.")
    return values.pop()
