"""What an export writes: the files of each layout, from modules and the shapes of parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.core.types import PyTree
from ldm_jax.interop import compvis, diffusers_export, own
from ldm_jax.interop.conditioner_names import (
    diffusers_bert,
    diffusers_class_label,
    transformers_clip,
)
from ldm_jax.interop.diffusers import INDEX
from ldm_jax.interop.files import WeightFile
from ldm_jax.interop.first_stage_names import compvis_first_stage, diffusers_first_stage
from ldm_jax.interop.mapping import Entry, make_entries, own_entries
from ldm_jax.interop.unet_names import compvis_unet, diffusers_unet

Jsons = dict[str, Mapping[str, Any]]
_WEIGHTS = "diffusion_pytorch_model.safetensors"


class Diffusion(NamedTuple):
    """What a diffusion model is beside its networks.

    Attributes:
      scale_factor: of the latents.
      schedule: name of the noise schedule.
      betas: [T] float64.
      alpha_bars: [T] float64.
      parameterization: 'eps', 'x0' or 'v'.
      spacing: of the sampling steps.
    """

    scale_factor: float
    schedule: str
    betas: np.ndarray
    alpha_bars: np.ndarray
    parameterization: str
    spacing: str


class Parts(NamedTuple):
    """A model to be written.

    Attributes:
      modules: by component: 'first_stage', and for a diffusion model 'conditioner' and 'unet'.
      abstract: shapes of the parameters of the components that have any.
      image_size: of training, in pixels.
      diffusion: None for a first stage alone.
    """

    modules: Mapping[str, Any]
    abstract: Mapping[str, PyTree]
    image_size: int
    diffusion: Diffusion | None


def own_files(
    folder: Path, abstract: Mapping[str, PyTree], latent_scale: Mapping[str, np.ndarray]
) -> list[WeightFile]:
    """Returns a file per component in our own layout."""
    return [
        WeightFile(
            own.weight_path(folder, component),
            [(component, own_entries(tree))],
            latent_scale if component == "unet" else {},
        )
        for component, tree in abstract.items()
    ]


def compvis_file(path: Path, parts: Parts) -> WeightFile:
    """Returns the one file of CompVis' layout; a first stage alone has no prefix.

    Raises:
      UserError: a conditioner that CompVis has no place for.
    """
    inside: list[tuple[str, list[Entry]]] = []
    for component, tree in parts.abstract.items():
        module, prefix = parts.modules[component], compvis.PREFIXES[component]
        if component == "unet":
            cells = compvis_unet(module)
        elif component == "first_stage":
            cells = compvis_first_stage(module)
        else:
            # Stable Diffusion 2 was published with OpenCLIP's names.
            is_open_clip = isinstance(module, ClipText) and module.activation == "gelu"
            cells = compvis.conditioner_cells(module, is_open_clip)
            if isinstance(module, ClipText):
                prefix += compvis.OPEN_CLIP if is_open_clip else compvis.TEXT_MODEL
        inside.append(
            (component, below(prefix if parts.diffusion else "", make_entries(tree, cells)))
        )
    if parts.diffusion is None:
        return WeightFile(path, inside)
    buffers = {
        "betas": parts.diffusion.betas.astype(np.float32),
        "alphas_cumprod": parts.diffusion.alpha_bars.astype(np.float32),
        "scale_factor": np.asarray(parts.diffusion.scale_factor, np.float32),
    }
    return WeightFile(path, inside, buffers)


def diffusers_files(folder: Path, parts: Parts) -> tuple[list[WeightFile], Jsons]:
    """Returns the weight files and the JSON files of a diffusers folder, its index last.

    Raises:
      UserError: something that diffusers has no place for.
    """
    stage, diffusion = parts.modules["first_stage"], parts.diffusion
    stage_json = diffusers_export.first_stage_config(
        stage, parts.image_size, None if diffusion is None else diffusion.scale_factor
    )
    stage_entries = make_entries(parts.abstract["first_stage"], diffusers_first_stage(stage))
    if diffusion is None:
        weights = WeightFile(folder / _WEIGHTS, [("first_stage", stage_entries)])
        return [weights], {"config.json": stage_json}
    pipeline = diffusers_export.pipeline_index(
        parts.modules["conditioner"], stage_json["_class_name"], diffusion.scale_factor
    )
    stage_folder = "vae" if "vae" in pipeline else "vqvae"
    unet_file, unet_json = _diffusers_unet(folder, parts)
    pipeline["unet"] = ["diffusers", unet_json["_class_name"]]
    files = [
        unet_file,
        WeightFile(folder / stage_folder / _WEIGHTS, [("first_stage", stage_entries)]),
    ]
    jsons: Jsons = {
        "unet/config.json": unet_json,
        f"{stage_folder}/config.json": stage_json,
        "scheduler/scheduler_config.json": diffusers_export.scheduler_config(
            diffusion.betas, diffusion.schedule, diffusion.parameterization, diffusion.spacing
        ),
    }
    if "tokenizer" in pipeline:
        text_folder, text_file, text_json = _diffusers_text(folder, parts)
        files.append(text_file)
        jsons[f"{text_folder}/config.json"] = text_json
    return files, jsons | {INDEX: pipeline}


def _diffusers_unet(folder: Path, parts: Parts) -> tuple[WeightFile, dict[str, Any]]:
    model, conditioner = parts.modules["unet"], parts.modules["conditioner"]
    tree = parts.abstract["unet"]
    inside = [("unet", make_entries(tree, diffusers_unet(model)))]
    if isinstance(conditioner, ClassLabel):
        table = parts.abstract["conditioner"]
        inside.append(("conditioner", make_entries(table, diffusers_class_label(conditioner))))
    stage = parts.modules["first_stage"]
    config = diffusers_export.unet_config(
        model,
        conditioner,
        in_channels=tree["conv_in"]["kernel"].shape[2],
        context_dim=_context_dim(tree) if model.transformer_depth else 0,
        latent_size=parts.image_size // stage.downsampling_factor,
    )
    return WeightFile(folder / "unet" / _WEIGHTS, inside), config


def _diffusers_text(folder: Path, parts: Parts) -> tuple[str, WeightFile, dict[str, Any]]:
    conditioner, tree = parts.modules["conditioner"], parts.abstract["conditioner"]
    if isinstance(conditioner, ClipText):
        name, entries = "text_encoder", make_entries(tree, transformers_clip(conditioner))
        entries = below("text_model.", entries)
    else:
        name, entries = "bert", make_entries(tree, diffusers_bert(conditioner))
    file = WeightFile(folder / name / "model.safetensors", [("conditioner", entries)])
    return name, file, diffusers_export.text_config(conditioner)


def _context_dim(unet: PyTree) -> int:
    """Returns the width of the tokens that a U-Net reads."""
    return unet["mid_attn"]["block_0"]["cross_attn"]["to_k"]["kernel"].shape[0]


def below(prefix: str, entries: list[Entry]) -> list[Entry]:
    """Returns the entries with a prefix before their names."""
    return [entry._replace(theirs=prefix + entry.theirs) for entry in entries]
