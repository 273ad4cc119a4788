"""The image tower of CLIP as transformers keeps it: its settings, and what its layers are called.

Names are those of CLIPVisionModelWithProjection, which are those of a whole CLIPModel too.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.conditioning.clip_image import ClipImage
from ldm_jax.core.checks import UserError
from ldm_jax.interop.mapping import Cell, Cells

_LAYER = "vision_model.encoder.layers.{}."
_NAMES = {
    "patch_embedding": "vision_model.embeddings.patch_embedding",
    "class_embedding": "vision_model.embeddings.class_embedding",
    "position_embedding": "vision_model.embeddings.position_embedding.weight",
    "norm_in": "vision_model.pre_layrnorm",  # spelt so
    "norm_attn": _LAYER + "layer_norm1",
    "attn/to_q": _LAYER + "self_attn.q_proj",
    "attn/to_k": _LAYER + "self_attn.k_proj",
    "attn/to_v": _LAYER + "self_attn.v_proj",
    "attn/to_out": _LAYER + "self_attn.out_proj",
    "norm_ff": _LAYER + "layer_norm2",
    "ff/hidden": _LAYER + "mlp.fc1",
    "ff/out": _LAYER + "mlp.fc2",
    "norm_out": "vision_model.post_layernorm",
    "projection": "visual_projection",
}


def transformers_clip_image(model: ClipImage) -> Cells:
    """Returns where transformers keeps each layer."""
    del model

    def cells(path: str) -> Cell:
        layer, _, rest = path.partition("/")
        number = layer.removeprefix("layer_")
        return Cell(_NAMES[rest].format(number) if number != layer else _NAMES[path])

    return cells


def is_not_of_clip_image(name: str) -> bool:
    """Returns whether a tensor holds nothing of the image tower, such as CLIP's text tower."""
    inside = name.startswith(("vision_model.", "visual_projection."))
    return not inside or name.endswith("position_ids")


def clip_image_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of `ClipImage` for config.json, of the tower or of a whole CLIP.

    Raises:
      UserError: an image encoder that ours is not.
    """
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"config.json: got {kind}. Legal: clip, clip_vision_model.")
    tower = config["vision_config"] if kind == "clip" else config
    if tower.get("intermediate_size") != 4 * tower.get("hidden_size", 0):
        raise UserError("config.json: intermediate_size must be 4 x hidden_size.")
    for field, legal in (("layer_norm_eps", 1e-5), ("num_channels", 3)):
        if tower.get(field, legal) != legal:
            raise UserError(f"config.json: got {field}={tower[field]}. Legal: {legal}.")
    return {
        "name": "clip_image",
        "resolution": tower.get("image_size", 224),
        "patch": tower.get("patch_size", 32),
        "dim": tower["hidden_size"],
        "depth": tower.get("num_hidden_layers", 12),
        "num_heads": tower.get("num_attention_heads", 12),
        "projection_dim": config.get("projection_dim", 512),
        "activation": tower.get("hidden_act", "quick_gelu"),
    }
