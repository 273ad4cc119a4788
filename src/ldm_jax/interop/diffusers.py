"""diffusers' layout: a folder with model_index.json and one folder per component."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.interop.conditioner_names import (
    diffusers_bert,
    diffusers_class_label,
    transformers_clip,
)
from ldm_jax.interop.diffusers_settings import (
    bert_settings,
    clip_settings,
    first_stage_settings,
    schedule_settings,
    scheduler_notes,
    unet_settings,
)
from ldm_jax.interop.first_stage_names import diffusers_first_stage
from ldm_jax.interop.foreign import Component, Foreign, Renamed, data_settings, entries_by
from ldm_jax.interop.tensors import INDEX_SUFFIX, Tensors, open_tensors
from ldm_jax.interop.unet_names import diffusers_unet

INDEX = "model_index.json"
# Ours: whether the last class stands for none. diffusers skips fields with an underscore.
NULL_CLASS = "_null_class"
CLASS_TABLE = "class_embedding.weight"
# Parts of pipelines that do not make the image.
_LEFT_OUT = ("feature_extractor", "image_encoder", "safety_checker")
_CLASSES = ("AutoencoderKL", "VQModel")

# The attention layers of a first stage, as diffusers called them before 0.15.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")


def is_diffusers(path: Path) -> bool:
    """Returns whether a folder is a pipeline of diffusers, or one of its first stages."""
    if (path / INDEX).is_file():
        return True
    config = path / "config.json"
    return config.is_file() and read_json(config).get("_class_name") in _CLASSES


def read_diffusers(path: Path) -> Foreign:
    """Returns what a diffusers folder holds; only names and shapes are read.

    Args:
      path: folder of Stable Diffusion 1 or 2, a latent diffusion pipeline (text to image,
        unconditional, super-resolution), or a bare AutoencoderKL or VQModel.

    Raises:
      UserError: a component is missing or is none that we have.
    """
    if not (path / INDEX).is_file():
        model, _ = first_stage_settings(read_json(path / "config.json"), path.name)
        component = _first_stage(path)
        task = {"name": "autoencoder", "model": model}
        settings = {"task": task, "data": data_settings(256), "sample": {}}
        return Foreign("diffusers", settings, {"first_stage": component})
    index = read_json(path / INDEX)
    first_stage = next((path / n for n in ("vae", "vqvae", "movq") if (path / n).is_dir()), None)
    for name, folder in (("vae or vqvae", first_stage), ("unet", path / "unet")):
        if folder is None or not folder.is_dir():
            raise UserError(f"{path}: has no folder {name}.")
    assert first_stage is not None
    settings, notes = _settings(path, index, first_stage)
    components = {"first_stage": _first_stage(first_stage)}
    conditioner = settings["task"]["conditioner"]["name"]
    if conditioner == "clip_text":
        components["conditioner"] = _clip(path / "text_encoder")
    elif conditioner == "text_transformer":
        components["conditioner"] = Component(
            open_weights(path / "bert"), entries_by(diffusers_bert), lambda n: False
        )
    unet = open_weights(path / "unet")
    names = {name: name for name in unet.keys()}
    if conditioner == "class_label":
        components["conditioner"] = Component(
            Renamed(unet, {CLASS_TABLE: names.pop(CLASS_TABLE)}), entries_by(diffusers_class_label)
        )
    components["unet"] = Component(Renamed(unet, names), entries_by(diffusers_unet))
    tokenizer = path / "tokenizer"
    return Foreign(
        "diffusers",
        settings,
        components,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        notes=notes,
    )


def _settings(
    path: Path, index: Mapping[str, Any], first_stage: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    config = read_json(path / "unet" / "config.json")
    unet = unet_settings(config)
    model, scale_factor = first_stage_settings(
        read_json(first_stage / "config.json"), first_stage.name
    )
    if index.get("_class_name") == "LDMSuperResolutionPipeline":
        scale_factor = 1.0  # that pipeline decodes its latents as they are
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    if str(index.get("_class_name")).startswith("StableDiffusion"):
        # As those pipelines do, whatever their scheduler's file says.
        scheduler = {**scheduler, "steps_offset": 1, "clip_sample": False}
    schedule, parameterization, spacing = schedule_settings(scheduler)
    notes = scheduler_notes(scheduler)
    left = sorted(name for name in _LEFT_OUT if (path / name).is_dir())
    if left:
        notes.append(f"left out, for nothing here reads it: {', '.join(left)}")
    factor = 2 ** (len(model["channel_mult"]) - 1)
    size = config.get("sample_size") or 64
    latent = size if isinstance(size, int) else size[0]
    conditioner = _conditioner(path, index, config, unet, latent)
    data = data_settings(latent * factor, model["image_channels"])
    if "length" in conditioner:
        data["tokenizer"] = {"name": "huggingface", "length": conditioner["length"]}
    task = {
        "name": "latent_diffusion",
        "model": unet,
        "conditioner": conditioner,
        "first_stage": {"model": model, "scale_factor": scale_factor},
        "schedule": schedule,
        "parameterization": parameterization,
        "condition_drop_rate": 0.1 if conditioner.get("null_class", True) else 0.0,
    }
    if conditioner["name"] == "clip_text":
        task["train_conditioner"] = False
    guidance = 7.5 if "length" in conditioner else 1.0
    # A bucket of one: a single prompt, the usual case, costs a single image.
    sample = {"spacing": spacing, "guidance_scale": guidance, "per_device_batch": 1}
    return {"task": task, "data": data, "sample": sample}, tuple(notes)


def _conditioner(
    path: Path,
    index: Mapping[str, Any],
    config: Mapping[str, Any],
    unet: Mapping[str, Any],
    latent: int,
) -> dict[str, Any]:
    if (path / "text_encoder").is_dir():
        return clip_settings(read_json(path / "text_encoder" / "config.json"))
    if (path / "bert").is_dir():
        bert = bert_settings(read_json(path / "bert" / "config.json"))
        with open_weights(path / "bert") as tensors:
            return bert | {"unused_logits": "to_logits.weight" in set(tensors.keys())}
    if config.get("num_class_embeds"):
        has_null = bool(index.get(NULL_CLASS, False))
        return {
            "name": "class_label",
            "num_classes": config["num_class_embeds"] - has_null,
            "dim": 4 * unet["channels"],
            "route": "embedding",
            "null_class": has_null,
        }
    extra = config["in_channels"] - config["out_channels"]
    if extra:
        key = "low_res" if extra == 3 else "masked_image"
        shape = (latent, latent, extra)
        return {"name": "identity", "key": key, "shape": shape, "route": "concat"}
    if unet.get("transformer_depth"):
        raise UserError(f"{path}: its U-Net reads tokens. Legal: a text_encoder or bert folder.")
    return {"name": "none"}


def _first_stage(folder: Path) -> Component:
    tensors = open_weights(folder)
    return Component(
        Renamed(tensors, {_new_name(name): name for name in tensors.keys()}),
        entries_by(diffusers_first_stage),
    )


def _new_name(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in _OLD_ATTENTION:
        parts[-2] = _OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def _clip(folder: Path) -> Component:
    tensors = open_weights(folder)
    names = {name.removeprefix("text_model."): name for name in tensors.keys()}
    return Component(
        Renamed(tensors, names),
        entries_by(transformers_clip),
        lambda name: name.endswith("position_ids"),
    )


def open_weights(folder: Path) -> Tensors:
    """Opens the weights of a component: safetensors before others, whole precision before half."""
    for variant in ("", ".fp16"):
        for stem in _WEIGHTS:
            for suffix in (".safetensors", INDEX_SUFFIX, ".bin"):
                name = f"{stem}{variant}{suffix}"
                if suffix == INDEX_SUFFIX and variant:
                    name = f"{stem}.safetensors.index{variant}.json"
                if (folder / name).is_file():
                    return open_tensors(folder / name)
    found = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else "none"
    raise UserError(
        f"{folder}: no weights; found {found or 'nothing'}. Legal: "
        f"{', '.join(f'{stem}.safetensors' for stem in _WEIGHTS)}, their sharded index, or .bin."
    )


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
      UserError: there is no such file, or none in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged; expected a JSON object.")
    return _Json(path, found)


class _Json(dict[str, Any]):
    """A JSON object that says which field it lacks."""

    def __init__(self, path: Path, fields: Mapping[str, Any]):
        super().__init__(fields)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._path}: lacks {key!r}.")
