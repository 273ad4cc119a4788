"""The frozen first stage of a diffusion run: loaded, measured once, and kept with the run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.config import build
from ldm_jax.core.rng import Purpose, example_keys, step_key
from ldm_jax.core.types import PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.models import FIRST_STAGES
from ldm_jax.tasks.base import Task, to_float_images
from ldm_jax.tasks.first_stage import (
    FirstStage,
    Frozen,
    LatentScale,
    fixed_scale,
    measure_scale,
)
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.exchange import (
    check_same_components,
    load_component,
    load_frozen,
    open_model,
    open_start,
)


def abstract_frozen(task: Task, image_size: int) -> PyTree:
    """Returns the shapes of the task's frozen tree; `{}` for tasks that have none."""
    if not isinstance(task, LatentDiffusionTask):
        return {}
    key = jax.eval_shape(lambda: jax.random.key(0))
    first_stage = jax.eval_shape(lambda key: task.first_stage.init(key, image_size), key)
    channels = task.first_stage.model.latent_channels
    vector: Any = jax.ShapeDtypeStruct((channels,), jnp.float32)
    conditioner = None
    if not task.train_conditioner:
        conditioner = jax.eval_shape(task.init_conditioner, key)
    return Frozen(first_stage, LatentScale(vector, vector), conditioner)


def prepare_frozen(
    config: ConfigDict, task: LatentDiffusionTask, stream: Stream, mesh: Mesh
) -> PyTree:
    """Loads the first stage named by `config.task.first_stage` and measures its latents.

    `scale_factor` is a number, or 'auto': per-channel mean and standard deviation of posterior
    samples over `scale_images` training images. The reference uses one number from one batch.

    Args:
      config: checked by `ldm_jax.train.preflight`.
      task: of the run.
      stream: whole batches, the same in every process.
      mesh: where the parameters go; the first stage may have been trained on another.

    Raises:
      UserError: nothing trained there, or its model differs from `config.task.first_stage.model`.
    """
    if config.train.init_from:
        with open_start(config, task) as model:
            return load_frozen(model, mesh, with_conditioner=not task.train_conditioner)
    settings: Mapping[str, Any] = config.task.first_stage
    abstract = abstract_frozen(task, config.data.image_size)
    params = _load_first_stage(settings, mesh) if jax.tree.leaves(abstract.params) else {}
    factor = settings.get("scale_factor", "auto")
    if factor != "auto":
        return Frozen(params, fixed_scale(task.first_stage.model.latent_channels, float(factor)))
    scale = _measure(
        task.first_stage, params, stream, settings.get("scale_images", 2048), config.seed
    )
    return Frozen(params, scale)


def _load_first_stage(settings: Mapping[str, Any], mesh: Mesh) -> PyTree:
    source = settings["workdir"]
    with open_model(source, for_sampling=False) as model:
        model.check()
        wanted = build("config.task.first_stage.model", FIRST_STAGES, settings["model"])
        check_same_components(
            f"config.task.first_stage.workdir={source}", model, {"first_stage": wanted}
        )
        return load_component(model, "first_stage", mesh)


def _measure(
    first_stage: FirstStage, params: PyTree, stream: Stream, num_images: int, seed: int
) -> LatentScale:
    key = step_key(seed, 0, Purpose.LATENT_STATISTICS)

    @jax.jit
    def sums(params, images_u8, indices):
        images = to_float_images(images_u8)
        z = first_stage.encode_unscaled(params, images, example_keys(key, indices))
        return jnp.sum(z, (0, 1, 2)), jnp.sum(jnp.square(z), (0, 1, 2)), z[..., 0].size

    seen, count, total, total_square = 0, 0, 0.0, 0.0
    while seen < num_images:
        images = next(stream)["image"]
        batch_sum, batch_square, size = sums(params, images, seen + jnp.arange(len(images)))
        seen, count = seen + len(images), count + int(size)
        total, total_square = total + batch_sum, total_square + batch_square
    return measure_scale(count, jnp.asarray(total), jnp.asarray(total_square))
