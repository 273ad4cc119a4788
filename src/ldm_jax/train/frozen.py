"""The frozen first stage of a diffusion run: loaded, measured once, and kept with the run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.core.rng import Purpose, example_keys, step_key
from ldm_jax.core.types import Array, PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.models import FIRST_STAGES
from ldm_jax.parallel.sharding import placed
from ldm_jax.tasks.base import Task, to_float_images
from ldm_jax.tasks.first_stage import (
    FirstStage,
    Frozen,
    LatentScale,
    fixed_scale,
    measure_scale,
)
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.checkpoint import read_config, restore_params


def abstract_frozen(task: Task, image_size: int, channels: int) -> PyTree:
    """Returns the shapes of the task's frozen tree; `{}` for tasks that have none."""
    if not isinstance(task, LatentDiffusionTask):
        return {}
    vector: Any = jax.ShapeDtypeStruct(
        (task.first_stage.latent_shape(image_size, image_size)[2],), jnp.float32
    )
    conditioner = None
    if not task.train_conditioner:
        key = jax.eval_shape(lambda: jax.random.key(0))
        conditioner = jax.eval_shape(task.init_conditioner, key)
    first_stage = _abstract_params(task.first_stage, image_size, channels)
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
    settings: Mapping[str, Any] = config.task.first_stage
    workdir = settings["workdir"]
    _check_same_model(workdir, settings)
    size, channels = config.data.image_size, config.data.get("channels", 3)
    abstract = {"autoencoder": _abstract_params(task.first_stage, size, channels)}
    params = restore_params(workdir, placed(mesh, abstract))[0]["autoencoder"]
    factor = settings.get("scale_factor", "auto")
    if factor != "auto":
        latent_channels = task.first_stage.latent_shape(size, size)[2]
        return Frozen(params, fixed_scale(latent_channels, float(factor)))
    scale = _measure(
        task.first_stage, params, stream, settings.get("scale_images", 2048), config.seed
    )
    return Frozen(params, scale)


def first_stage_init(
    first_stage: FirstStage, image_size: int, channels: int
) -> Callable[[Array], PyTree]:
    """Returns the first stage's fresh parameters as a function of a key."""
    latent = first_stage.latent_shape(image_size, image_size)

    def init(key: Array) -> PyTree:
        images = jnp.zeros((1, image_size, image_size, channels))
        return first_stage.model.init(key, images, jnp.zeros((1, *latent))).get("params", {})

    return init


def _abstract_params(first_stage: FirstStage, image_size: int, channels: int) -> PyTree:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(first_stage_init(first_stage, image_size, channels), key)


def _check_same_model(workdir: str | Path, settings: Mapping[str, Any]) -> None:
    found = read_config(workdir).task.get("model")
    wanted = settings["model"]
    if found is None or _weights_of(found) != _weights_of(wanted):
        raise UserError(
            f"config.task.first_stage.model differs from the model in {workdir}/config.json: "
            f"got {wanted.to_dict()}, expected {found.to_dict() if found else 'an autoencoder'}."
        )


def _weights_of(model: Mapping[str, Any]) -> Any:
    """Returns the model without what its parameters do not depend on, for comparison."""
    module = build("config.task.first_stage.model", FIRST_STAGES, model)
    return module.clone(dtype=jnp.float32, attention_impl="xla", dropout=0.0)


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
