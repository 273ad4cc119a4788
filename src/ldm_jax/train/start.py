"""What a run starts from: its parts by the configuration, its state by the workdir.

The state is, in this order:
  1. the newest complete checkpoint of the workdir, if there is one;
  2. the parameters of `config.train.init_from`, a model of any layout;
  3. fresh parameters from `config.seed`.
The frozen first stage comes from the workdir once it is there, whatever became of its source.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.rng import Purpose, step_key
from ldm_jax.core.types import PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.data.source import Source
from ldm_jax.parallel import multihost
from ldm_jax.parallel.mesh import batch_block
from ldm_jax.parallel.sharding import put_whole, shardings
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cache_key import cached_routes
from ldm_jax.train.cached_conditions import without_conditioner
from ldm_jax.train.checkpoint import (
    Checkpoints,
    check_same_run,
    has_begun,
    read_config,
    save_frozen,
    write_config,
)
from ldm_jax.train.condition_checks import check_classes, check_first_examples, check_tokenizer
from ldm_jax.train.frozen import (
    abstract_frozen,
    load_perceptual,
    prepare_frozen,
    restore_run_frozen,
)
from ldm_jax.train.layout import placed_state, state_shardings
from ldm_jax.train.load import load_component, open_start
from ldm_jax.train.pod_preflight import check_data
from ldm_jax.train.state import TrainState
from ldm_jax.train.step import init_state

_SHARED = "a --workdir that all hosts see alike"


class Parts(NamedTuple):
    """What a configuration makes, before any array of the run exists.

    Attributes:
      tokenizer: of captions; None without any.
      task: the losses.
      optimizers: by loss group.
      learning_rate: step -> learning rate.
      source: training examples.
      held_out: examples to evaluate with, or None.
      init: () -> the state before the first step.
      state: its shapes.
    """

    tokenizer: Any
    task: Task
    optimizers: Mapping[str, optax.GradientTransformation]
    learning_rate: Callable[[int], Any]
    source: Source
    held_out: Source | None
    init: Callable[[], TrainState]
    state: TrainState


def build_parts(config: ConfigDict, workdir: str | Path) -> Parts:
    """Returns the parts of a run; of one that begins, the first examples are looked at.

    Raises:
      UserError: parts that do not fit each other or the data.
    """
    tokenizer = assemble_data.build_tokenizer(config)
    assemble_data.keep_text(config, tokenizer)
    task = assemble.build_task(config)
    check_tokenizer(task, tokenizer)
    spec = assemble_data.batch_spec(config, task, config.train.batch_size)
    optimizers, learning_rate = assemble.build_optimizers(config, task)
    source, held_out = assemble_data.build_source(config)
    check_data(source)
    check_classes(task, source)

    def init() -> TrainState:
        return init_state(task, optimizers, step_key(config.seed, 0, Purpose.PARAMS), spec)

    if not has_begun(workdir):
        check_first_examples(config, task, source, tokenizer)
    abstract = jax.eval_shape(init)  # raises where a network cannot take these images
    return Parts(tokenizer, task, optimizers, learning_rate, source, held_out, init, abstract)


def open_workdir(
    config: ConfigDict, workdir: str | Path, mesh: Mesh, parts: Parts
) -> tuple[bool, PyTree]:
    """Returns whether a run has begun in `workdir`, and its frozen parameters.

    A run that has not does so here: its configuration and frozen parameters are written. Of one
    that has, `config` takes where its first stage was from.

    Raises:
      UserError: the workdir holds another run, or not every process sees it alike.
    """
    begun = has_begun(workdir)
    # Others wait here for the first process, which holds the lock.
    multihost.check_same("what the workdir holds", "a run" if begun else "no run", _SHARED)
    if begun:
        _check_begun(config, workdir)
        frozen = restore_run_frozen(config, parts.task, workdir, mesh, for_training=True)
    else:
        write_config(workdir, config)
        frozen = _prepare_frozen(config, workdir, mesh, parts)
    cached = cached_routes(config)
    if isinstance(parts.task, LatentDiffusionTask) and cached:
        frozen = without_conditioner(parts.task, frozen, mesh)
        logging.info("the cache answers for the conditioner: %s", ", ".join(cached))
    return begun, frozen


def restore_or_init(
    config: ConfigDict, mesh: Mesh, parts: Parts, checkpoints: Checkpoints, stream: Stream
) -> TrainState:
    """Returns the state to go on from; the stream is set to what comes after it."""
    step = checkpoints.latest_step()
    multihost.check_same("the newest checkpoint", step, _SHARED)
    if step is None:
        layout = state_shardings(mesh, parts.state, ema_on_host=config.train.ema_on_host)
        state = jax.jit(parts.init, out_shardings=layout)()
        return _start_from(config, mesh, parts.task, state) if config.train.init_from else state
    wanted = placed_state(mesh, parts.state, ema_on_host=config.train.ema_on_host)
    state, data_state = checkpoints.restore(step, wanted)
    stream.set_state(data_state)
    return state


def _check_begun(config: ConfigDict, workdir) -> None:
    """Refuses another run's configuration, and says what of this one will not be read."""
    check_same_run(workdir, config)
    first_stage = config.task.get("first_stage")
    if first_stage is None:
        return
    origin = read_config(workdir).task.first_stage.get("workdir")
    if first_stage.get("workdir") not in (None, origin):
        logging.warning(
            "config.task.first_stage.workdir=%s is not read: this run keeps its own copy of the "
            "first stage, from %s",
            first_stage.workdir,
            origin,
        )
    with config.unlocked(), config.ignore_type():
        first_stage.workdir = origin


def _prepare_frozen(config: ConfigDict, workdir, mesh: Mesh, parts: Parts) -> PyTree:
    task = parts.task
    if not jax.tree.leaves(abstract_frozen(task, config.data.image_size)):
        return {}
    if not isinstance(task, LatentTask):
        perceptual = load_perceptual(config, mesh)
        save_frozen(workdir, perceptual)
        return perceptual
    stream = assemble_data.build_stream(
        config, parts.source, task, parts.tokenizer, block=batch_block(mesh), squares=True
    )
    frozen, record = prepare_frozen(config, task, stream, mesh)
    frozen = put_whole(frozen, shardings(mesh, frozen))
    save_frozen(workdir, frozen, record)
    return frozen


def _start_from(config: ConfigDict, mesh: Mesh, task: Task, state: TrainState) -> TrainState:
    """Returns a fresh state with the parameters of another model, averages included.

    Of a first stage, a discriminator starts afresh: no model comes with one.
    """
    with open_start(config, task) as model:
        if isinstance(task, LatentTask):
            params = {name: load_component(model, name, mesh) for name in state.params}
        else:
            autoencoder = load_component(model, "first_stage", mesh)
            params = {**state.params, "autoencoder": autoencoder}
    logging.info("starting from %s", config.train.init_from)
    ema = jax.tree.map(
        lambda p, e: jax.device_put(jnp.copy(p), e.sharding), params, state.ema_params
    )
    return dataclasses.replace(state, params=params, ema_params=ema)
