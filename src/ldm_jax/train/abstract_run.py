"""A run in shapes alone: its arrays, and its programs, traced and not compiled.

Nothing is loaded, drawn or placed, so weights need not exist, and devices need not be here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from ldm_jax.core.rng import Purpose, step_key
from ldm_jax.core.types import PyTree
from ldm_jax.data.latent_cache import read_manifest
from ldm_jax.parallel.mesh import batch_shards, check_batch_size
from ldm_jax.parallel.sharding import batch_sharding, placed, replicated
from ldm_jax.samplers.base import initial_state
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.first_stage import Answered
from ldm_jax.tasks.guided import Controls
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cache_key import cached_routes
from ldm_jax.train.frozen import abstract_frozen
from ldm_jax.train.layout import placed_state
from ldm_jax.train.preflight import check_config
from ldm_jax.train.sampling import Programs, program_table
from ldm_jax.train.state import TrainState
from ldm_jax.train.step import compile_train_step, init_state


class AbstractRun(NamedTuple):
    """What a run is made of.

    Attributes:
      config: checked.
      task: built from it.
      optimizers: by loss group.
      state: ShapeDtypeStructs.
      frozen: likewise, as training has it.
    """

    config: ConfigDict
    task: Task
    optimizers: Any
    state: TrainState
    frozen: PyTree


class SamplingProgram(NamedTuple):
    """A program of sampling.

    Attributes:
      traced: as `jax.jit(f).trace(...)` does; loops of any number of rows, whose costs are those of
        one.
      runs: of it for an image.
    """

    traced: Any
    runs: int


def abstract_run(config: ConfigDict) -> AbstractRun:
    """Returns the run of a configuration.

    Raises:
      UserError: a configuration that does not build.
    """
    task = check_config(config)
    optimizers, _ = assemble.build_optimizers(config, task)
    spec = assemble_data.batch_spec(config, task, config.train.batch_size)
    state = jax.eval_shape(
        lambda: init_state(task, optimizers, step_key(config.seed, 0, Purpose.PARAMS), spec)
    )
    frozen = abstract_frozen(task, config.data.image_size)
    if isinstance(task, LatentDiffusionTask) and cached_routes(config):
        null = jax.eval_shape(lambda frozen: task.null_condition({}, frozen), frozen)
        frozen = Answered(frozen.params, frozen.latent_scale, null=null)
    return AbstractRun(config, task, optimizers, state, frozen)


def trace_train_step(run: AbstractRun, mesh: Mesh, per_device_batch: int) -> Any:
    """Returns the train step of a run on a mesh, as `jax.jit(f).trace(...)` does.

    Raises:
      UserError: the batch does not divide.
    """
    train = run.config.train
    batch_size = per_device_batch * batch_shards(mesh)
    check_batch_size(mesh, batch_size, train.accumulation)
    train_step = assemble.build_train_step(run.config, run.task, run.optimizers)
    where = {"ema_on_host": train.ema_on_host}
    compiled = compile_train_step(train_step, mesh, run.state, run.frozen, **where)
    state = placed_state(mesh, run.state, **where)
    with jax.set_mesh(mesh):
        return compiled.trace(state, placed(mesh, run.frozen), _batch(run, mesh, batch_size))


def trace_sampling(
    run: AbstractRun, mesh: Mesh, per_device_batch: int
) -> dict[str, SamplingProgram]:
    """Returns the programs that sampling spends its time in; {} for tasks without sampling.

    They are those of `train.sampling.Programs`, for `config.sample`: `evaluation`, a row of the
    sampler's table with guidance where there is any, and `decode`. Captions are encoded, and noise
    is drawn, once per image, which hardly counts.
    """
    task, sample = run.task, run.config.sample
    if not isinstance(task, LatentDiffusionTask):
        return {}
    size = per_device_batch * batch_shards(mesh)
    programs: Any = Programs(task, mesh, decode_batch=sample.decode_batch)
    params = placed(mesh, run.state.ema_params)
    frozen = placed(mesh, abstract_frozen(task, run.config.data.image_size))
    inputs = _rows(mesh, _sampling_inputs(task, size))
    seeds = _rows(mesh, jax.ShapeDtypeStruct((size,), jnp.uint32))
    indices = _rows(mesh, jax.ShapeDtypeStruct((size,), jnp.int32))
    settings = assemble.build_sample_settings(run.config, task)
    conditioning = programs.condition.eval_shape(params, frozen, inputs)
    controls = Controls((conditioning,))
    if settings.guidance_scale != 1.0:
        null = programs.null.eval_shape(size, params, frozen)
        scale: Any = jax.ShapeDtypeStruct((size,), jnp.float32)
        controls = Controls((conditioning,), null=null, scale=scale)
    shape = task.first_stage.latent_shape(task.image_size, task.image_size)
    state = _rows(
        mesh, jax.eval_shape(initial_state, jax.ShapeDtypeStruct((size, *shape), jnp.float32))
    )
    table = _whole(mesh, program_table(settings.rows))
    bounds = _whole(mesh, (jax.ShapeDtypeStruct((), jnp.int32),) * 2)
    evaluation = programs.advance.trace(
        params, frozen, None, _rows(mesh, controls), state, table, seeds, indices, *bounds
    )
    return {
        "evaluation": SamplingProgram(evaluation, len(settings.rows)),
        "decode": SamplingProgram(programs.decode.trace(True, frozen, state.z), 1),
    }


def _sampling_inputs(task: LatentDiffusionTask, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of what conditions `size` images."""
    pixels = (task.image_size, task.image_size, task.first_stage.model.image_channels)
    example = {**task.input_shapes(), "image": jax.ShapeDtypeStruct(pixels, jnp.uint8)}
    return {
        name: jax.ShapeDtypeStruct((size, *example[name].shape), example[name].dtype)
        for name in task.condition_entries
    }


def _batch(run: AbstractRun, mesh: Mesh, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch, with a cache's answers where it has them."""
    spec = dict(assemble_data.batch_spec(run.config, run.task, batch_size))
    routes = cached_routes(run.config)
    if routes:
        manifest = read_manifest(run.config.data.latent_cache)
        spec = {"moments": spec["moments"]} | {
            name: jax.ShapeDtypeStruct(
                (batch_size, *manifest.conditioning[name]), manifest.conditioning_dtype
            )
            for name in routes
        }
    return _rows(mesh, spec)


def _rows(mesh: Mesh, tree: PyTree) -> PyTree:
    """Returns shapes whose rows are split over the devices, as programs are given them."""
    return _laid_out(batch_sharding(mesh), tree)


def _whole(mesh: Mesh, tree: PyTree) -> PyTree:
    return _laid_out(replicated(mesh), tree)


def _laid_out(sharding: NamedSharding, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
