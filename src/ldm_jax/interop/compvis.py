"""CompVis' layout: one file with everything, as latent-diffusion and Stable Diffusion save it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.conditioning.spatial_rescaler import SpatialRescaler
from ldm_jax.conditioning.text_transformer import TextTransformer
from ldm_jax.core.checks import UserError
from ldm_jax.diffusion import schedule
from ldm_jax.interop.compvis_settings import file_scale_factor, infer_settings
from ldm_jax.interop.conditioner_names import (
    compvis_bert,
    compvis_class_label,
    compvis_rescaler,
    layers_read,
    open_clip,
    transformers_clip,
)
from ldm_jax.interop.first_stage_names import compvis_first_stage
from ldm_jax.interop.foreign import Component, Foreign, Renamed, entries_by
from ldm_jax.interop.mapping import Cells
from ldm_jax.interop.tensors import Tensors, open_tensors
from ldm_jax.interop.unet_names import compvis_unet

PREFIXES = {
    "first_stage": "first_stage_model.",
    "conditioner": "cond_stage_model.",
    "unet": "model.diffusion_model.",
}
# The average is kept under the names of `model`'s parameters, their dots removed.
_EMA = "model_ema."

# Buffers of the noise schedule, counters, and losses: known, and nothing that a model needs.
_UNUSED = re.compile(
    r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights|logvar"
    r"|scale_factor|cond_ids|model_ema\.(decay|num_updates)|(first_stage_model\.)?loss\..*"
)
# Of a text tower: its pooled output, its image half, and buffers that are constants. Of
# BERTEmbedder: the output layer that is never read, where the model leaves it out.
_UNUSED_BY_CONDITIONERS = re.compile(
    r".*position_ids|text_projection.*|logit_scale|attn_mask|visual\..*|transformer\.to_logits\..*"
)
# A layer of a text tower, of OpenCLIP or of transformers, without the tower's prefix.
_LAYER = re.compile(r"(?:.*\.)?((?:transformer\.resblocks|encoder\.layers)\.(\d+)\.)")
# Below the conditioner's prefix: how a text tower of transformers or OpenCLIP is wrapped.
TEXT_MODEL, OPEN_CLIP = "transformer.text_model.", "model."


def read_compvis(
    path: Path, settings: Mapping[str, Any] | None = None, *, ema: bool = True
) -> Foreign:
    """Returns what a CompVis file holds; only names and shapes are read.

    Args:
      path: .ckpt, .pt, .pth, .bin or .safetensors; a whole model, or a bare first stage.
      settings: the groups of a configuration, where the shapes of the weights do not tell.
      ema: the averaged U-Net, if the file has one, rather than the raw one.

    Raises:
      UserError: not such a file, or a model whose heads and schedule nothing tells.
    """
    file = open_tensors(path)
    try:
        names = list(file.keys())
        views, spare, notes = _views(path, names, ema)
        found = {part: Renamed(file, view) for part, view in views.items() if view}
        settings = infer_settings(path, file, found) if settings is None else settings
    except BaseException:
        file.close()
        raise
    components = {
        part: _component(part, tensors)
        for part, tensors in found.items()
        if part != "conditioner" or _has_parameters(settings["task"])
    }
    taken = {name for part in components for name in views[part].values()} | spare
    if "conditioner" in found and "conditioner" not in components:
        taken |= _second_first_stage(views)
    strays = tuple(n for n in names if n not in taken and not _UNUSED.fullmatch(n))
    return Foreign(
        "compvis",
        dict(settings),
        components,
        strays,
        notes=(*notes, *_disagreements(file, settings)),
        scale_factor=file_scale_factor(file),
    )


def _views(
    path: Path, names: list[str], ema: bool
) -> tuple[dict[str, dict[str, str]], set[str], tuple[str, ...]]:
    """Returns each component's short names and those in the file, the spare U-Net, and notes."""
    views = {
        part: {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    if not any(views.values()):
        if not any(n.startswith("decoder.up.") for n in names):
            raise UserError(
                f"{path}: holds no tensor under {', '.join(PREFIXES.values())} or decoder.up.; "
                "expected a checkpoint of latent-diffusion or Stable Diffusion, or a first stage; "
                "a file of diffusers' is read with its folder. "
                f"Found: {', '.join(map(repr, names[:3])) or 'nothing'}."
            )
        return {"first_stage": {n: n for n in names}}, set(), ()
    present = set(names)
    averages = {short: ema_name(short) for short in views["unet"]}
    averages = {short: name for short, name in averages.items() if name in present}
    if not averages:
        return views, set(), ()
    if not ema:
        note = "the raw U-Net is taken; the averaged one, model_ema, is left out"
        return views, set(averages.values()), (note,)
    spare = {views["unet"][short] for short in averages}
    note = "the averaged U-Net, model_ema, is taken; the raw one is left out"
    return views | {"unet": averages}, spare, (note,)


def _second_first_stage(views: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Returns the names of a first stage that stands in the conditioner's place once more."""
    stage = views["first_stage"]
    return {name for short, name in views["conditioner"].items() if short in stage}


def _disagreements(file: Tensors, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what a configuration says otherwise than the buffers of the file."""
    task, present = settings["task"], set(file.keys())
    notes = []
    if "betas" in present and "schedule" in task:
        expected = schedule.betas(**task["schedule"])
        found = np.asarray(file["betas"], np.float64)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-3):
            notes.append("the file's betas are not those of config.task.schedule, which is used")
    wanted, factor = task.get("first_stage", {}).get("scale_factor"), file_scale_factor(file)
    if isinstance(wanted, float) and factor is not None and abs(wanted - factor) > 1e-6 * factor:
        notes.append(f"the file's scale_factor is {factor}; config's, {wanted}, is used")
    return tuple(notes)


def ema_name(short: str) -> str:
    """Returns where the average of a U-Net's 'input_blocks.0.0.weight' is kept."""
    return _EMA + f"diffusion_model.{short}".replace(".", "")


def _has_parameters(task: Mapping[str, Any]) -> bool:
    """Whether a task's conditioner has any; inpainting saves its first stage in that place."""
    return task.get("conditioner", {}).get("name", "none") not in ("none", "identity")


def _component(part: str, tensors: Tensors) -> Component:
    if part == "unet":
        return Component(tensors, entries_by(compvis_unet))
    if part == "first_stage":
        return Component(tensors, entries_by(compvis_first_stage), lambda n: n.startswith("loss."))
    names = list(tensors.keys())
    prefix = next((p for p in (TEXT_MODEL, OPEN_CLIP) if _any_starts(names, p)), "")
    last = _last_layer(tensors)

    def is_unused(name: str) -> bool:
        return name.startswith(last) or bool(_UNUSED_BY_CONDITIONERS.fullmatch(name))

    def cells(module: Any) -> Cells:
        return conditioner_cells(module, prefix == OPEN_CLIP)

    renamed = Renamed(tensors, {n.removeprefix(prefix): n for n in names})
    return Component(renamed, entries_by(cells), is_unused)


def _any_starts(names: list[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _last_layer(tensors: Tensors) -> str:
    """Returns the prefix of the layer that a tower has beyond those that are read."""
    for name in tensors.keys():
        if name.endswith("token_embedding.weight"):
            width = tensors.info(name).shape[1]
            found = (_LAYER.match(other) for other in tensors.keys())
            layers = {int(match[2]): match[1] for match in found if match}
            read = layers_read(width, len(layers))
            return layers.get(read, "\0")
    return "\0"


def conditioner_cells(module: Any, is_open_clip: bool) -> Cells:
    """Returns where CompVis keeps each layer of a conditioner.

    Raises:
      UserError: CompVis has no such conditioner.
    """
    tables: dict[type, Callable[[Any], Cells]] = {
        ClipText: open_clip if is_open_clip else transformers_clip,
        TextTransformer: compvis_bert,
        ClassLabel: compvis_class_label,
        SpatialRescaler: compvis_rescaler,
    }
    if type(module) not in tables:
        raise UserError(
            f"the CompVis layout has no place for a {type(module).__name__}. Legal: "
            f"{', '.join(kind.__name__ for kind in tables)}."
        )
    for field, legal in (("pooled_dim", 0), ("route", "context")):
        if getattr(module, field, legal) != legal:
            raise UserError(
                f"the CompVis layout has no place for a {type(module).__name__} with "
                f"{field}={getattr(module, field)}. Legal: {field}={legal}."
            )
    return tables[type(module)](module)
