"""Writing a model in another layout: our weights, a diffusers folder, a CompVis file."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, lookup
from ldm_jax.core.config import call
from ldm_jax.core.types import PyTree
from ldm_jax.diffusion.schedule import alpha_bars, betas
from ldm_jax.interop import own
from ldm_jax.interop.diffusers import INDEX
from ldm_jax.interop.export import Diffusion, Parts, compvis_file, diffusers_files, own_files
from ldm_jax.interop.files import write_json, write_weights
from ldm_jax.interop.foreign import Progress
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.tasks.first_stage import LatentScale
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble_data
from ldm_jax.train.exchange import Model
from ldm_jax.train.fingerprint import first_stage_hash

Load = Callable[[str], PyTree]
# Fields that name what lies elsewhere on this machine; the tokenizer is in our folder.
_ELSEWHERE = (
    *(("data.tokenizer", "path"), ("data", "latent_cache"), ("task.first_stage", "workdir")),
    ("task", "conditioner_weights"),
)


def convert(model: Model, target: str | Path, to: str, progress: Progress | None = None) -> None:
    """Writes a model in another layout, one component in memory at a time.

    Types are kept as they are on disk. Nothing that is there already is overwritten, and the target
    appears when it is whole.

    Args:
      model: from `open_model`.
      target: a new folder, or for 'compvis' a new file that ends in .safetensors.
      to: one of LAYOUTS.
      progress: called with the bytes of each tensor that was read or written.

    Raises:
      UserError: the target exists, or its layout has no place for this model.
    """
    write = lookup("--to", LAYOUTS, to)
    if isinstance(model.task, LatentClassifierTask):
        raise UserError(
            f"{model.path}: holds a classifier of noisy latents, for which no layout has a place. "
            "Legal: a diffusion model or a first stage."
        )
    target = check_target(model.path, target, to)
    if to == "compvis":
        write(model, target, progress)  # a file, which appears when it is whole
        return
    staging = target.with_name(f"{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)  # of a conversion that was killed
    try:
        write(model, staging, progress)
        if target.is_dir():
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_target(source: str | Path, target: str | Path, to: str) -> Path:
    """Returns where a conversion goes.

    Raises:
      UserError: something is there already, or it is no place for that layout.
    """
    target, source = Path(target).expanduser(), Path(source).expanduser()
    is_file = target.suffix == ".safetensors"
    if is_file != (to == "compvis"):
        legal = "a name in .safetensors" if to == "compvis" else "the name of a folder"
        kind = "a file" if to == "compvis" else "a folder"
        raise UserError(f"{target}: the layout {to} is {kind}. Legal: {legal}.")
    if target.is_file() or (target.is_dir() and (is_file or any(target.iterdir()))):
        raise UserError(f"{target}: there is something already. Legal: a new name.")
    if source.resolve() in target.resolve().parents:
        raise UserError(f"{target}: lies within {source}. Legal: a place outside it.")
    return target


def total_bytes(model: Model) -> int:
    """Returns the bytes that a conversion reads and writes."""
    infos = [info for component in model.infos.values() for info in component.values()]
    return 2 * sum(math.prod(info.shape) * info.dtype.itemsize for info in infos)


def _to_own(model: Model, target: Path, progress: Progress | None) -> None:
    scale = {}
    if model.latent_scale is not None:
        numbers = (model.latent_scale.shift, model.latent_scale.scale)
        scale = dict(zip(own.LATENT_SCALE, map(np.asarray, numbers), strict=True))
    files = own_files(target, model.abstract, scale)
    write_weights(files, model.infos, lambda name: model.load(name, progress), progress)
    if model.latent_scale is not None:
        write_json(target / own.SCALE_RECORD, _scale_record(model))
    if model.tokenizer is not None:
        _write_tokenizer(model, target, with_padding=False)
    config = model.config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for group, field in _ELSEWHERE:
            node = config
            for part in group.split("."):
                node = node.get(part) or ConfigDict()
            if field in node:
                del node[field]
    own.write_config(target, config.to_json_best_effort(indent=2))


def _scale_record(model: Model) -> dict[str, Any]:
    """Returns what the scale belongs to; a model of others' gets the hash of its first stage."""
    if model.scale_record or model.layout in ("workdir", "ldm_jax"):
        return dict(model.scale_record)
    params = model.load("first_stage") if "first_stage" in model.abstract else {}
    return {"first_stage": first_stage_hash(model.module("first_stage"), params)}


def _to_compvis(model: Model, target: Path, progress: Progress | None) -> None:
    parts, load = _parts(model, progress)
    write_weights([compvis_file(target, parts)], model.infos, load, progress)


def _to_diffusers(model: Model, target: Path, progress: Progress | None) -> None:
    parts, load = _parts(model, progress)
    files, jsons = diffusers_files(target, parts)
    has_text = "tokenizer" in jsons.get(INDEX, {})
    if has_text:
        _check_tokenizer(model)
    write_weights(files, model.infos, load, progress)
    if has_text:
        _write_tokenizer(model, target, with_padding=True)
    for name, value in jsons.items():
        write_json(target / name, value)


LAYOUTS = {"ldm_jax": _to_own, "diffusers": _to_diffusers, "compvis": _to_compvis}


def _parts(model: Model, progress: Progress | None) -> tuple[Parts, Load]:
    """Returns what is to be written, and a loader whose latents need one number for a scale."""
    task, size = model.task, model.config.data.image_size

    def plain(name: str) -> PyTree:
        return model.load(name, progress)

    load: Load = plain
    if not isinstance(task, LatentDiffusionTask):
        modules = {"first_stage": model.module("first_stage")}
        return Parts(modules, model.abstract, size, None), load
    assert model.latent_scale is not None
    factor = single_factor(model.latent_scale)
    if factor is None:
        if not isinstance(task.first_stage.model, Autoencoder):
            raise UserError(
                "the latents of this VQ model are scaled per channel, which no other project can "
                "say. Legal: --to ldm_jax."
            )
        load, factor = _folded(load, model.latent_scale), 1.0
    schedule = dict(model.config.task.get("schedule", {"name": "linear"}))
    diffusion = Diffusion(
        factor,
        schedule.get("name", "linear"),
        call("config.task.schedule", betas, schedule),
        call("config.task.schedule", alpha_bars, schedule),
        task.parameterization,
        model.config.sample.spacing,
    )
    names = ("first_stage", "conditioner", "unet")
    modules = {name: model.module(name) for name in names}
    return Parts(modules, model.abstract, size, diffusion), load


def single_factor(scale: LatentScale) -> float | None:
    """Returns the one number that latents are multiplied by; None if it takes more than one."""
    shift, factors = np.asarray(scale.shift), np.asarray(scale.scale, np.float32)
    if np.any(shift) or np.any(factors != factors[0]):
        return None
    return float(str(factors[0]))  # 0.18215 rather than its float32 neighbour in float64


def _folded(load: Load, scale: LatentScale) -> Load:
    """Returns a loader of first stages whose latents have the scale in them.

    z = (latent - shift) scale is affine per channel, as are the two 1x1 convolutions about the
    latent: quant_conv gives (mean - shift) scale and logvar + 2 log scale, post_quant_conv takes
    z / scale + shift. Exact but for rounding, and for variances at their clipping bounds.
    """
    shift = np.asarray(scale.shift, np.float64)
    factor = np.asarray(scale.scale, np.float64)

    def folded(name: str) -> PyTree:
        tree = load(name)
        if name != "first_stage":
            return tree
        quant, post = dict(tree["quant_conv"]), dict(tree["post_quant_conv"])
        mean_bias, logvar_bias = np.split(quant["bias"].astype(np.float64), 2)
        bias = [(mean_bias - shift) * factor, logvar_bias + 2 * np.log(factor)]
        scales = np.concatenate([factor, np.ones_like(factor)])
        kernel = post["kernel"].astype(np.float64)
        new = {
            "quant_conv": {
                "kernel": quant["kernel"] * scales[None, None, None, :],
                "bias": np.concatenate(bias),
            },
            "post_quant_conv": {
                "kernel": kernel / factor[None, None, :, None],
                "bias": post["bias"] + np.einsum("hwio,i->o", kernel, shift),
            },
        }
        for layer, arrays in new.items():
            old = tree[layer]
            tree[layer] = {key: x.astype(old[key].dtype) for key, x in arrays.items()}
        return tree

    return folded


def _check_tokenizer(model: Model) -> None:
    settings = model.config.data.get("tokenizer") or {}
    if settings.get("name") != "words" and model.tokenizer is None:
        raise UserError(
            f"{model.path}: has no tokenizer, which a diffusers folder of this model holds. Legal: "
            "--tokenizer DIR, a Hugging Face folder, or CLIP's bpe_simple_vocab_16e6.txt.gz."
        )


def _write_tokenizer(model: Model, target: Path, *, with_padding: bool) -> None:
    """Puts the tokenizer beside the weights, as a Hugging Face folder."""
    if model.tokenizer is not None and model.tokenizer.is_dir():
        shutil.copytree(model.tokenizer, target / "tokenizer", dirs_exist_ok=True)
    else:
        tokenizer = assemble_data.build_tokenizer(model.config)
        tokenizer.save(target / "tokenizer", with_padding=with_padding)
