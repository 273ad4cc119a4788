"""The training loop: side effects and nothing else.

Shapes first, memory last: `eval_shape`, then shardings, then a jitted initialisation that lays
every array where it belongs. What a run goes on from is told in `train/start.py`.
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.types import PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.parallel import multihost
from ldm_jax.parallel.host_memory import check_host_memory
from ldm_jax.parallel.mesh import batch_block, check_batch_size, make_mesh
from ldm_jax.parallel.sharding import put_batch
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cache_key import cached_routes
from ldm_jax.train.checkpoint import Checkpoints, write_config
from ldm_jax.train.diverged import Diagnosis
from ldm_jax.train.evaluation import make_evaluation
from ldm_jax.train.goodput import Goodput, spent_before
from ldm_jax.train.grids import make_grid
from ldm_jax.train.hooks import METRICS_FILE, CutCaptions, QuarantineLog, RunLog
from ldm_jax.train.lock import workdir_lock
from ldm_jax.train.metrics import MetricWindow, NonFiniteError
from ldm_jax.train.pod_preflight import check_pod
from ldm_jax.train.preflight import check_run
from ldm_jax.train.signals import Interrupted, StopRequest
from ldm_jax.train.start import Parts, build_parts, open_workdir, restore_or_init
from ldm_jax.train.state import TrainState
from ldm_jax.train.step import compile_train_step
from ldm_jax.train.watch import Watch


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
    if config.train.ema_on_host:
        check_host_memory(mesh, "config.train.ema_on_host")
    config = config.copy_and_resolve_references()  # the caller's stays as it is
    check_pod(config, workdir, f"--workdir={workdir}")
    parts = build_parts(config, workdir)
    stream = assemble_data.build_stream(
        config, parts.source, parts.task, parts.tokenizer, block=batch_block(mesh)
    )
    with jax.set_mesh(mesh), workdir_lock(workdir):
        begun, frozen = open_workdir(config, workdir, mesh, parts)
        checkpoints = Checkpoints(workdir, config.train.keep_checkpoints, config.train.keep_every)
        unread = stream.get_state()

        def restore() -> TrainState:
            checkpoints.wait()
            stream.set_state(unread)
            return restore_or_init(config, mesh, parts, checkpoints, stream)

        state = restore()
        if int(state.step):
            logging.info("resumed at step %d of %d", int(state.step), config.train.steps)
        if begun:
            write_config(workdir, config)  # only now is it known to fit what was trained
        step_fn, detailed = (
            _compiled(config, parts, mesh, frozen, detailed=detailed)
            for detailed in (False, True)  # the second is compiled only if it is called
        )
        diagnosis = Diagnosis(workdir, parts.source, stream, restore, step_fn, detailed)
        watch = Watch(
            make_evaluation(config, parts.task, parts.held_out, mesh, parts.state, frozen),
            make_grid(config, parts.task, _shown(config, parts), parts.tokenizer, mesh),
            CutCaptions(parts.tokenizer),
            QuarantineLog(workdir, getattr(parts.source, "quarantine", {})),
            diagnosis,
            goodput,
        )
        rate = parts.learning_rate
        return _run(config, workdir, mesh, state, frozen, stream, step_fn, checkpoints, rate, watch)


def _compiled(config: ConfigDict, parts: Parts, mesh: Mesh, frozen: PyTree, *, detailed: bool):
    """Returns the train step of a run, compiled when it is first called."""
    train_step = assemble.build_train_step(config, parts.task, parts.optimizers, detailed=detailed)
    on_host = config.train.ema_on_host
    return compile_train_step(train_step, mesh, parts.state, frozen, ema_on_host=on_host)


def _shown(config: ConfigDict, parts: Parts) -> Any:
    """Returns the source that grids take their conditions from."""
    if cached_routes(config) and config.data.get("evaluation_source"):
        return parts.source  # of a source beside the cache, only the conditioner could make one
    return parts.held_out or parts.source


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
