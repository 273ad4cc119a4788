"""The images of a trained model that are evaluated: samples, or reconstructions."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.row_program import RowProgram
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.base import to_uint8_images
from ldm_jax.tasks.latent_diffusion import MASKED_IMAGE, LatentDiffusionTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.bound import Bound, open_bound
from ldm_jax.train.checkpoint import MAY_CHANGE, complete_steps
from ldm_jax.train.code_version import package_version
from ldm_jax.train.condition_checks import check_tokenizer
from ldm_jax.train.exchange import Model, open_model
from ldm_jax.train.fingerprint import diffusion_hash, params_hash
from ldm_jax.train.load import load_component, load_diffusion
from ldm_jax.train.reference_set import ReferenceSet
from ldm_jax.train.sampling import make_sample_fn

Draw = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class SampleSet:
    """Images of a model, each made when it is asked for.

    Attributes:
      key: what they follow from beside their number, as JSON.
      draw: numbers [n] -> uint8 [n, H, W, C]; image k depends on k alone.
      at_once: the images of one run of the programs.
      what: is done, in a word.
      bound: (real images, images at once on a device) -> the model's bound on them; of diffusion
        models.
    """

    key: Mapping[str, Any]
    draw: Draw
    at_once: int
    what: str
    bound: Callable[[ReferenceSet, int], Bound] | None = None


def open_samples(
    config: ConfigDict,
    workdir: str | Path,
    conditions: ReferenceSet | None,
    seed: int,
    mesh: Mesh,
    *,
    ema: bool = True,
) -> SampleSet:
    """Returns the samples of a diffusion model, by `config.sample`.

    Sample k draws from (seed, k), as image k of `ldm-jax sample` does, and has the condition of
    example k of `conditions`.

    Args:
      config: of the run.
      workdir: of the run; its newest checkpoint is taken.
      conditions: what conditions it; None for unconditional models.
      seed: of the noise.
      mesh: of the devices.
      ema: averaged parameters.

    Raises:
      UserError: no checkpoint, or one that was replaced while it was read.
    """
    with open_model(workdir, config=config, ema=ema) as model:
        task, about = model.task, _about(model, workdir, ema)
        assert isinstance(task, LatentDiffusionTask)
        params, frozen = load_diffusion(model, mesh)
        check_unchanged(workdir, about["step"])
    check_tokenizer(task, assemble_data.build_tokenizer(config))
    settings, sample = assemble.build_sample_settings(config, task), config.sample
    if not task.inputs:  # there is nothing to guide towards
        settings = dataclasses.replace(settings, guidance_scale=1.0)
    each = sample.per_device_batch
    draw_all = make_sample_fn(
        task, settings, mesh, per_device_batch=each, decode_batch=sample.decode_batch
    )
    entries, limits = task.condition_entries, task.input_limits()

    def draw(numbers: np.ndarray) -> np.ndarray:
        batch = conditions.conditions(numbers, entries, limits) if conditions else {}
        inputs = {name: batch[name] for name in entries}
        images = draw_all(params, frozen, inputs, seed, numbers)
        masked = MASKED_IMAGE in task.conditioner.inputs
        return put_back(images, batch["image"], batch["mask"]) if masked else images

    about = {**about, "checkpoint_hash": diffusion_hash(params, frozen)}

    def bound(images: ReferenceSet, at_once: int) -> Bound:
        return open_bound(task, params, frozen, images, seed, at_once, mesh, _as_json(about))

    key = {
        **about,
        "seed": seed,
        "sampler": sample.sampler.to_dict(),
        "steps": sample.steps,
        "spacing": sample.spacing,
        "guidance_scale": settings.guidance_scale,
        "conditions": None if conditions is None else conditions.key,
    }
    return SampleSet(_as_json(key), draw, each * batch_shards(mesh), "sample", bound)


def open_reconstructions(
    config: ConfigDict,
    workdir: str | Path,
    images: ReferenceSet,
    per_device_batch: int,
    mesh: Mesh,
    *,
    ema: bool = True,
) -> SampleSet:
    """Returns what a first stage makes of images, from the mode of the posterior.

    Args:
      config: of the run.
      workdir: of the run; its newest checkpoint is taken.
      images: what it reconstructs.
      per_device_batch: images at once on a device.
      mesh: of the devices.
      ema: averaged parameters.

    Raises:
      UserError: no checkpoint, or one that was replaced while it was read.
    """
    with open_model(workdir, config=config, ema=ema) as model:
        task, about = model.task, _about(model, workdir, ema)
        assert isinstance(task, FirstStageTask)
        params = load_component(model, "first_stage", mesh)
        check_unchanged(workdir, about["step"])

    def apply(params: PyTree, rows: Array) -> dict[str, Array]:
        found = task.reconstruct({"autoencoder": params}, {"image": rows})
        return {"images": to_uint8_images(found), "finite": jnp.isfinite(found).all((1, 2, 3))}

    at_once = per_device_batch * batch_shards(mesh)
    reconstruct = RowProgram(params, apply, at_once, mesh)

    def draw(numbers: np.ndarray) -> np.ndarray:
        found = reconstruct(images.images(numbers))
        if not found["finite"].all():
            raise UserError(
                f"image {numbers[np.argmin(found['finite'])]}: its reconstruction is not a number. "
                "Legal: parameters that have not diverged."
            )
        return found["images"]

    key = {**about, "checkpoint_hash": params_hash(params), "images": images.key}
    return SampleSet(_as_json(key), draw, at_once, "reconstruct")


def put_back(drawn: np.ndarray, known: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns inpainted images [n, H, W, C] with what is known put back, where mask [n, H, W] is 0.

    Whoever inpaints does so, and the model's own version of it is not what is judged.
    """
    return np.where(mask[..., None] > 0, drawn, known)


def check_unchanged(workdir: str | Path, step: int) -> None:
    """Raises UserError if a run has written another checkpoint than the one of `step` since."""
    newest = complete_steps(workdir)[-1:]
    if newest != [step]:
        raise UserError(
            f"--workdir={workdir}: its checkpoint {step} was replaced while it was read. Legal: "
            "the same command again."
        )


def _about(model: Model, workdir: str | Path, ema: bool) -> dict[str, Any]:
    """Returns what is known of a model before its parameters are loaded."""
    steps = complete_steps(workdir)
    if not steps:
        raise UserError(f"{workdir}: no complete checkpoint yet; train for longer first.")
    return {
        "task": _fixed(json.loads(model.config.task.to_json_best_effort())),
        "step": steps[-1],
        "parameters": "ema" if ema else "raw",
    }


def _fixed(tree: Any) -> Any:
    """Returns settings without those that say where things lie, which change no number."""
    if not isinstance(tree, dict):
        return tree
    return {name: _fixed(x) for name, x in tree.items() if name not in MAY_CHANGE}


def _as_json(key: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps({**key, "ldm_jax": package_version()}))
    return found
