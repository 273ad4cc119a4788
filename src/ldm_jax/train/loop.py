"""The training loop: side effects and nothing else.

Shapes first, memory last: `eval_shape`, then shardings, then a jitted initialisation that lays
every array where it belongs. Resume precedence:
  1. the newest complete checkpoint of the workdir, if there is one;
  2. the parameters of `config.train.init_from`, a model of any layout;
  3. fresh parameters from `config.seed`.
The frozen first stage comes from the workdir once it is there, whatever became of its source.
"""

import dataclasses
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.rng import Purpose, step_key
from ldm_jax.core.types import PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.parallel import multihost
from ldm_jax.parallel.host_memory import check_host_memory, on_device
from ldm_jax.parallel.mesh import batch_block, check_batch_size, make_mesh
from ldm_jax.parallel.sharding import put_batch, put_whole, shardings
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train import assemble
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
from ldm_jax.train.condition_checks import (
    check_classes,
    check_first_examples,
    check_tokenizer,
)
from ldm_jax.train.diverged import Diagnosis
from ldm_jax.train.evaluation import Evaluation, make_evaluation
from ldm_jax.train.frozen import (
    abstract_frozen,
    load_perceptual,
    prepare_frozen,
    restore_run_frozen,
)
from ldm_jax.train.goodput import Goodput, spent_before
from ldm_jax.train.grids import Grid, make_grid
from ldm_jax.train.hooks import METRICS_FILE, CutCaptions, QuarantineLog, RunLog
from ldm_jax.train.layout import placed_state, state_shardings
from ldm_jax.train.load import load_component, open_start
from ldm_jax.train.lock import workdir_lock
from ldm_jax.train.metrics import MetricWindow, NonFiniteError
from ldm_jax.train.pod_preflight import check_data, check_pod
from ldm_jax.train.preflight import check_run
from ldm_jax.train.signals import Interrupted, StopRequest
from ldm_jax.train.state import TrainState
from ldm_jax.train.step import compile_train_step, init_state, make_train_step

_SHARED = "a --workdir that all hosts see alike"


class Watch(NamedTuple):
    """What looks at a run from time to time, and always at the last step; most may be None."""

    evaluation: Evaluation | None
    grid: Grid | None
    captions: CutCaptions
    quarantine: QuarantineLog
    diagnosis: Diagnosis
    goodput: Goodput

    def look(self) -> None:
        """Tells what is new about captions and files."""
        self.captions.look()
        self.quarantine.look()

    def close(self) -> None:
        """Tells the rest."""
        self.captions.close()
        self.quarantine.close()

    def due(self, config: ConfigDict, step: int) -> bool:
        """Returns whether there may be anything to evaluate or draw."""
        often = config.train.sample_every, max(1, config.evaluation.every)
        return step == config.train.steps or any(step % every == 0 for every in often)

    def score(self, config: ConfigDict, step: int, state: TrainState, log: RunLog) -> None:
        """Evaluates where it is due."""
        due = step == config.train.steps or step % max(1, config.evaluation.every) == 0
        if self.evaluation is not None and due:
            log.scores(step, self.evaluation.run(_reachable(state)))

    def draw(
        self, config: ConfigDict, step: int, state: TrainState, frozen: PyTree, log: RunLog
    ) -> None:
        """Draws where it is due."""
        due = step == config.train.steps or step % config.train.sample_every == 0
        if self.grid is not None and due:
            images = self.grid.draw(_reachable(state), frozen)
            log.images(step, self.grid.name, images, self.grid.columns)


def _reachable(state: TrainState) -> TrainState:
    """Returns a state whose averages are in device memory, where all but the step want them."""
    return dataclasses.replace(state, ema_params=on_device(state.ema_params))


def train(config: ConfigDict, workdir: str | Path) -> TrainState:
    """Trains to `config.train.steps`, resuming from `workdir`, and returns the final state.

    Raises:
      UserError: anything in the configuration or the data that a user can mend.
      NonFiniteError: the loss left the real numbers; the last checkpoint before it is kept, and
        what was found is in `workdir/diverged`.
      SaveError: a checkpoint could not be written.
    """
    goodput = Goodput()
    check_run(config, workdir)
    mesh = make_mesh(config.train.mesh)
    check_batch_size(mesh, config.train.batch_size, config.train.accumulation)
    block = batch_block(mesh)
    if config.train.ema_on_host:
        check_host_memory(mesh, "config.train.ema_on_host")
    config = config.copy_and_resolve_references()  # the caller's stays as it is
    check_pod(config, workdir, f"--workdir={workdir}")
    tokenizer = assemble.build_tokenizer(config)
    assemble.keep_text(config, tokenizer)
    task = assemble.build_task(config)
    check_tokenizer(task, tokenizer)
    spec = assemble.batch_spec(config, task, config.train.batch_size)
    optimizers, learning_rate = assemble.build_optimizers(config, task)
    source, held_out = assemble.build_source(config)
    check_data(source)
    check_classes(task, source)

    def init() -> TrainState:
        return init_state(task, optimizers, step_key(config.seed, 0, Purpose.PARAMS), spec)

    if not has_begun(workdir):
        check_first_examples(config, task, source, tokenizer)
    abstract = jax.eval_shape(init)  # raises where a network cannot take these images
    stream = assemble.build_stream(config, source, task, tokenizer, block=block)
    with jax.set_mesh(mesh), workdir_lock(workdir):
        begun = has_begun(workdir)
        # Others wait here for the first process, which holds the lock.
        multihost.check_same("what the workdir holds", "a run" if begun else "no run", _SHARED)
        if begun:
            _check_begun(config, workdir)
            frozen = restore_run_frozen(config, task, workdir, mesh, for_training=True)
        else:
            write_config(workdir, config)
            frozen = _prepare_frozen(config, workdir, task, mesh, source, tokenizer)
        cached = cached_routes(config)
        if isinstance(task, LatentDiffusionTask) and cached:
            frozen = without_conditioner(task, frozen, mesh)
            logging.info("the cache answers for the conditioner: %s", ", ".join(cached))
        checkpoints = Checkpoints(workdir, config.train.keep_checkpoints, config.train.keep_every)
        unread = stream.get_state()

        def restore_or_init() -> TrainState:
            checkpoints.wait()
            stream.set_state(unread)
            return _restore_or_init(config, mesh, task, checkpoints, stream, abstract, init)

        state = restore_or_init()
        if int(state.step):
            logging.info("resumed at step %d of %d", int(state.step), config.train.steps)
        if begun:
            write_config(workdir, config)  # only now is it known to fit what was trained
        make_step = partial(
            make_train_step,
            task,
            optimizers,
            seed=config.seed,
            accumulation=config.train.accumulation,
            max_ema_decay=config.train.ema_decay,
            not_averaged=assemble.not_averaged(config, task),
        )
        step_fn, detailed_step_fn = (
            compile_train_step(
                make_step(detailed=detailed),
                mesh,
                abstract,
                frozen,
                ema_on_host=config.train.ema_on_host,
            )
            for detailed in (False, True)  # the second is compiled only if it is called
        )
        # Of a source beside the cache, only the conditioner could make a condition.
        beside = bool(cached and config.data.get("evaluation_source"))
        shown = source if beside else held_out or source
        watch = Watch(
            make_evaluation(config, task, held_out, mesh, abstract, frozen),
            make_grid(config, task, shown, tokenizer, mesh),
            CutCaptions(tokenizer),
            QuarantineLog(workdir, getattr(source, "quarantine", {})),
            Diagnosis(workdir, source, stream, restore_or_init, step_fn, detailed_step_fn),
            goodput,
        )
        state = _run(
            config, workdir, mesh, state, frozen, stream, step_fn, checkpoints, learning_rate, watch
        )
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


def _prepare_frozen(
    config: ConfigDict, workdir, task: Task, mesh: Mesh, source, tokenizer
) -> PyTree:
    if not jax.tree.leaves(abstract_frozen(task, config.data.image_size)):
        return {}
    if not isinstance(task, LatentTask):
        perceptual = load_perceptual(config, mesh)
        save_frozen(workdir, perceptual)
        return perceptual
    stream = assemble.build_stream(
        config, source, task, tokenizer, block=batch_block(mesh), squares=True
    )
    frozen, record = prepare_frozen(config, task, stream, mesh)
    frozen = put_whole(frozen, shardings(mesh, frozen))
    save_frozen(workdir, frozen, record)
    return frozen


def _restore_or_init(
    config: ConfigDict,
    mesh: Mesh,
    task: Task,
    checkpoints: Checkpoints,
    stream: Stream,
    abstract,
    init,
) -> TrainState:
    step = checkpoints.latest_step()
    multihost.check_same("the newest checkpoint", step, _SHARED)
    if step is None:
        layout = state_shardings(mesh, abstract, ema_on_host=config.train.ema_on_host)
        state = jax.jit(init, out_shardings=layout)()
        return _start_from(config, mesh, task, state) if config.train.init_from else state
    wanted = placed_state(mesh, abstract, ema_on_host=config.train.ema_on_host)
    state, data_state = checkpoints.restore(step, wanted)
    stream.set_state(data_state)
    return state


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


def _run(
    config: ConfigDict,
    workdir,
    mesh: Mesh,
    state: TrainState,
    frozen: PyTree,
    stream: Stream,
    step_fn,
    checkpoints: Checkpoints,
    learning_rate,
    watch: Watch,
) -> TrainState:
    settings = config.train
    start = int(state.step)
    goodput = watch.goodput
    goodput.go_on(spent_before(Path(workdir) / METRICS_FILE, start))
    log = RunLog(workdir, settings.steps, start, settings.batch_size)
    window, since = MetricWindow(), (time.monotonic(), start)
    with StopRequest(start) as stop, closing(checkpoints), closing(log), closing(watch):
        if start:
            watch.score(config, start, state, log)  # a kill may have come between saving and it
        for step in range(start + 1, settings.steps + 1):
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = step_fn(state, frozen, put_batch(mesh, next(stream)))
            goodput.stepped()
            window.add(step, metrics)
            watch.diagnosis.note(step)
            log.advance()
            last = step == settings.steps
            stopping = stop.after(step) and not last
            due = last or stopping or step % settings.checkpoint_every == 0
            if due or step % settings.log_every == 0:
                try:
                    values = window.flush()  # raises before anything is saved
                except NonFiniteError as error:
                    raise watch.diagnosis.explain(error, mesh, state, frozen) from None
                watch.diagnosis.forget()
                checkpoints.look()
                values |= {"learning_rate": float(learning_rate(step - 1)), **goodput.row()}
                now = time.monotonic()
                log.scalars(step, values, (step - since[1]) / (now - since[0]))
                since = (now, step)
                watch.look()
            if due:
                with goodput.aside():
                    checkpoints.save(step, state, stream.get_state())
            if stopping:
                message = (
                    f"stopped at step {step} of {settings.steps} and saved; "
                    "the same command goes on from there."
                )
                raise Interrupted(message if multihost.is_first() else "", stop.status)
            if watch.due(config, step):
                jax.block_until_ready(state)  # what is still running is time of steps
                with goodput.aside():
                    watch.score(config, step, state, log)
                    watch.draw(config, step, state, frozen, log)
    return state
