"""The frozen first stage of a diffusion run: loaded, measured once, and kept with the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import Purpose, example_keys, step_key
from ldm_jax.core.types import Array, PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.sharding import placed, put_batch, put_rows, put_whole, replicated, shardings
from ldm_jax.tasks.adversarial import AdversarialAutoencoderTask, Perceptual
from ldm_jax.tasks.base import Task, to_float_images
from ldm_jax.tasks.first_stage import (
    FirstStage,
    Frozen,
    LatentScale,
    fixed_scale,
    measured_scale,
)
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_statistics import LatentStatistics, LatentSums
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train.cache_key import check_cached_conditioner, check_cached_first_stage
from ldm_jax.train.checkpoint import read_frozen_record, restore_frozen
from ldm_jax.train.exchange import open_model
from ldm_jax.train.fingerprint import check_first_stage, first_stage_hash
from ldm_jax.train.load import (
    check_same_components,
    load_component,
    load_conditioner,
    load_frozen,
    open_start,
)

SCALE_IMAGES = 10_240  # that the scale of latents is measured on, by default


def abstract_frozen(task: Task, image_size: int) -> PyTree:
    """Returns the shapes of the task's frozen tree; `{}` for tasks that have none."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    if isinstance(task, AdversarialAutoencoderTask):
        if task.perceptual_weight == 0:
            return {}
        images = jnp.zeros((1, image_size, image_size, task.model.image_channels))
        return Perceptual(
            jax.eval_shape(task.perceptual_distance.init, key, images, images)["params"]
        )
    if not isinstance(task, LatentTask):
        return {}
    first_stage = jax.eval_shape(lambda key: task.first_stage.init(key, image_size), key)
    channels = task.first_stage.model.latent_channels
    vector: Any = jax.ShapeDtypeStruct((channels,), jnp.float32)
    conditioner = None
    if isinstance(task, LatentDiffusionTask) and task.has_frozen_conditioner:
        conditioner = jax.eval_shape(task.init_conditioner, key)
    return Frozen(first_stage, LatentScale(vector, vector), conditioner)


def load_perceptual(config: ConfigDict, mesh: Mesh) -> Perceptual:
    """Returns the parameters of LPIPS, from `config.train.lpips_weights` or its distribution."""
    weights = load_lpips(config.train.lpips_weights)
    return Perceptual(put_whole(weights, shardings(mesh, weights)))


def prepare_frozen(
    config: ConfigDict, task: LatentTask, stream: Stream, mesh: Mesh
) -> tuple[Frozen, dict[str, Any]]:
    """Loads the first stage that a run trains against, and measures its latents.

    And a conditioner that is not trained, from `config.task.conditioner_weights`. A model that the
    run starts from, `config.train.init_from`, brings both.

    `config.task.first_stage.scale_factor` is a number; 'auto', per-channel mean and standard
    deviation; or 'std', one standard deviation of all elements. Both are those of posterior samples
    of `scale_images` training images, but of no image twice. The reference uses one batch.

    A classifier whose `config.task.first_stage.workdir` is a diffusion model, the one that it is to
    guide, takes that model's scale instead.

    Args:
      config: checked by `ldm_jax.train.preflight`.
      task: of the run.
      stream: of this process's block of the batches.
      mesh: where the parameters go; the first stage may have been trained on another.

    Returns:
      What is frozen, and a record that is kept with it: `first_stage`, the hash; `scale_factor`;
      and `statistics` where they were measured.

    Raises:
      UserError: nothing trained there, or its model differs from `config.task.first_stage.model`,
        or `config.data.latent_cache` is of another one.
    """
    model = task.first_stage.model
    if config.train.init_from:
        with open_start(config, task) as start:
            frozen = load_frozen(start, mesh, with_conditioner=task.has_frozen_conditioner)
            digest = first_stage_hash(model, frozen.params)
            record = {**start.scale_record, "first_stage": digest}
        check_cached_first_stage(config, digest, task.moments_shape)
        _check_cached_conditioner(config, task, frozen.conditioner)
        return frozen, record
    if isinstance(task, LatentClassifierTask):
        guided = _frozen_of_guided(config, task, mesh)
        if guided is not None:
            return guided
    settings: Mapping[str, Any] = config.task.first_stage
    params = load_first_stage(config, task, mesh)
    digest = first_stage_hash(model, params)
    check_cached_first_stage(config, digest, task.moments_shape)
    factor = settings.get("scale_factor", "auto")
    record = {"first_stage": digest, "scale_factor": factor}
    conditioner = None
    if isinstance(task, LatentDiffusionTask) and task.has_frozen_conditioner:
        conditioner = load_conditioner(config, task, mesh)
        _check_cached_conditioner(config, task, conditioner)
    if not isinstance(factor, str):
        scale = fixed_scale(model.latent_channels, float(factor))
        return Frozen(params, scale, conditioner), record
    num_images = min(settings.get("scale_images", SCALE_IMAGES), stream.num_examples)
    statistics = _measure(task.first_stage, params, stream, num_images, config.seed, mesh)
    logging.info("latents of %s", statistics)
    scale = measured_scale(statistics, factor)
    return Frozen(params, scale, conditioner), {**record, "statistics": statistics.to_json()}


def _frozen_of_guided(
    config: ConfigDict, task: LatentClassifierTask, mesh: Mesh
) -> tuple[Frozen, dict[str, Any]] | None:
    """Returns what `prepare_frozen` does, from the diffusion model that a classifier is to guide.

    None if `config.task.first_stage.workdir` is a first stage alone, or not given.

    Raises:
      UserError: its first stage or its noise schedule are not the classifier's.
    """
    source = config.task.first_stage.get("workdir")
    if not source:
        return None
    with open_model(source, for_sampling=False) as model:
        if not isinstance(model.task, LatentTask):
            return None
        what = f"config.task.first_stage.workdir={source}"
        model.check()
        check_same_components(what, model, {"first_stage": task.first_stage.model})
        if not np.array_equal(model.task.schedule.alpha_bar, task.schedule.alpha_bar):
            raise UserError(
                f"{what}: its noise schedule is not config.task.schedule. Legal: that of the model "
                f"which the classifier is to guide, {dict(model.config.task.get('schedule', {}))}."
            )
        frozen = load_frozen(model, mesh, with_conditioner=False)
        digest = first_stage_hash(task.first_stage.model, frozen.params)
        record = {**model.scale_record, "first_stage": digest}
    check_cached_first_stage(config, digest, task.moments_shape)
    logging.info("latents are scaled as those of %s", source)
    return frozen, record


def restore_run_frozen(
    config: ConfigDict, task: Task, workdir: str | Path, mesh: Mesh, *, for_training: bool
) -> PyTree:
    """Returns the frozen tree of a run, laid out over a mesh; `{}` for tasks that have none.

    Args:
      config: of the run.
      task: built from it.
      workdir: of the run.
      mesh: where the arrays go.
      for_training: a latent cache is going to be read, and must be of its first stage.

    Raises:
      UserError: it is gone or damaged, or the scale of its latents belongs to another first stage.
    """
    abstract = abstract_frozen(task, config.data.image_size)
    if not abstract:
        return {}
    frozen = restore_frozen(workdir, placed(mesh, abstract))
    if isinstance(task, LatentTask):
        digest = first_stage_hash(task.first_stage.model, frozen.params)
        check_first_stage(str(workdir), read_frozen_record(workdir), digest)
        if for_training:
            check_cached_first_stage(config, digest, task.moments_shape)
            _check_cached_conditioner(config, task, frozen.conditioner)
    return frozen


def _check_cached_conditioner(config: ConfigDict, task: LatentTask, params: PyTree) -> None:
    if isinstance(task, LatentDiffusionTask) and task.has_frozen_conditioner:
        check_cached_conditioner(config, task.conditioner, params)


def load_first_stage(config: ConfigDict, task: LatentTask, mesh: Mesh) -> PyTree:
    """Returns the parameters of the first stage that `config` names, {} where it has none.

    It is the one of `config.train.init_from`, or lies at `config.task.first_stage.workdir`.

    Raises:
      UserError: see `prepare_frozen`.
    """
    if config.train.init_from:
        with open_start(config, task) as start:
            return load_component(start, "first_stage", mesh)
    if not jax.tree.leaves(abstract_frozen(task, config.data.image_size).params):
        return {}
    source = config.task.first_stage.workdir
    with open_model(source, for_sampling=False) as model:
        model.check()
        check_same_components(
            f"config.task.first_stage.workdir={source}",
            model,
            {"first_stage": task.first_stage.model},
        )
        return load_component(model, "first_stage", mesh)


def _measure(
    first_stage: FirstStage,
    params: PyTree,
    stream: Stream,
    num_images: int,
    seed: int,
    mesh: Mesh,
) -> LatentStatistics:
    key = step_key(seed, 0, Purpose.LATENT_STATISTICS)

    def encode(params: PyTree, batch: Mapping[str, Any], indices: Array) -> Array:
        keys = example_keys(key, indices)
        if "moments" in batch:
            return first_stage.sample_unscaled(batch["moments"], keys)
        return first_stage.encode_unscaled(params, to_float_images(batch["image"]), keys)

    encode_batch = jax.jit(
        encode, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh)
    )
    sums, seen = LatentSums(), 0
    while seen < num_images:
        batch = {k: v for k, v in next(stream).items() if k in ("image", "moments")}
        indices = seen + np.arange(stream.batch_size, dtype=np.int32)
        latents = encode_batch(params, put_batch(mesh, batch), put_rows(mesh, indices))
        sums.add(np.asarray(latents)[: num_images - seen])
        seen += stream.batch_size
    return sums.statistics(seed)
