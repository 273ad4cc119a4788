"""The only train step: every task, every mesh."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ldm_jax.core.draws import batch_draws
from ldm_jax.core.rng import StepKeys
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.sharding import (
    batch_sharding,
    gather_weights,
    path_name,
    replicated,
    shardings,
)
from ldm_jax.tasks.base import Task
from ldm_jax.train.layout import state_shardings
from ldm_jax.train.state import TrainState, ema_decay

TrainStep = Callable[[TrainState, PyTree, Batch], tuple[TrainState, dict]]


def init_state(
    task: Task, optimizers: Mapping[str, optax.GradientTransformation], key: Array, batch: Any
) -> TrainState:
    """Returns the state before the first update; run it under `jit` with `out_shardings`."""
    params, mutable = batch_draws(lambda key: task.init(key, batch))(key)
    opt_state = {
        group: optimizers[group].init(_select(params, modules))
        for group, modules in task.groups.items()
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=opt_state,
        mutable=mutable,
    )


def make_train_step(
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    seed: int,
    accumulation: int = 1,
    max_ema_decay: float = 0.9999,
    not_averaged: Collection[str] = (),
    detailed: bool = False,
) -> TrainStep:
    """Returns `(state, frozen, batch) -> (state, metrics)`, a pure function to be jitted.

    Each loss group differentiates its own parameters on the whole batch, in `accumulation` equal
    micro-batches whose gradients are averaged, and takes one optimizer update; then the average
    follows all parameters. Random keys belong to examples, so the result does not depend on
    `accumulation` but for rounding and for what a task takes from a batch as a whole: dropout
    masks; and in an adversarial first stage BatchNorm's statistics, the adaptive weight and the
    use of codes.

    Args:
      task: the losses.
      optimizers: one per group of the task.
      seed: of the run; all keys derive from it and `state.step`.
      accumulation: micro-batches per update.
      max_ema_decay: see `ema_decay`.
      not_averaged: modules whose average is the parameters as they are.
      detailed: metrics also hold `layer_norms` of every `gradient`, and of the parameters `after`.
    """

    def train_step(state: TrainState, frozen: PyTree, batch: Batch):
        params, opt_state, mutable = dict(state.params), dict(state.opt_state), state.mutable
        metrics: dict[str, Array] = {}
        gradient_norms: dict[str, tuple[Array, Array]] = {}
        for group, modules in task.groups.items():
            gradients, output, mutable = _mean_gradients(
                task, group, params, mutable, frozen, batch, state.step, seed, accumulation
            )
            trained = _select(params, modules)
            with jax.named_scope("optimizer"):
                updates, opt_state[group] = optimizers[group].update(
                    gradients, opt_state[group], trained
                )
                params |= cast(dict, optax.apply_updates(trained, updates))
                params, mutable = task.revise(group, params, mutable, state.step)
                params = dict(params)
            prefix = "" if len(task.groups) == 1 else f"{group}/"
            metrics |= {f"{prefix}{name}": value for name, value in output.items()}
            metrics[f"{prefix}grad_norm"] = optax.tree.norm(gradients)
            gradient_norms |= layer_norms(gradients) if detailed else {}
        step = state.step + 1
        with jax.named_scope("ema"):
            decay = ema_decay(step, max_ema_decay)
            # Averages may lie in host memory; where they do not, this is the identity.
            before = jax.device_put(state.ema_params, jax.memory.Space.Device)
            ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), before, params)
            ema |= {name: params[name] for name in not_averaged}
        # Without a barrier, XLA may part the loop of an update around a sum of its results: on a
        # v5e, a step of configs/shapes_text.py then moves 758 MB instead of 675.
        settled = jax.lax.optimization_barrier(params)
        metrics["param_norm"] = optax.tree.norm(settled)
        more = {"gradient": gradient_norms, "after": layer_norms(settled)} if detailed else {}
        return TrainState(step, params, ema, opt_state, mutable), {**metrics, **more}

    return train_step


def layer_norms(tree: PyTree) -> dict[str, tuple[Array, Array]]:
    """Returns (Euclidean norm, numbers that are not finite) of every array, by its path."""

    def look(x: Array) -> tuple[Array, Array]:
        # Divided by the largest, or the squares of finite numbers would overflow.
        largest = jnp.maximum(jnp.max(jnp.abs(x)), jnp.finfo(x.dtype).tiny)
        norm = largest * jnp.sqrt(jnp.sum(jnp.square(x / largest)))
        norm = jnp.where(jnp.isfinite(largest), norm, largest)  # an infinity is no 0 / 0
        return norm, jnp.sum(~jnp.isfinite(x))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): look(leaf) for path, leaf in leaves}


def compile_train_step(
    train_step: TrainStep,
    mesh: Mesh,
    state: TrainState,
    frozen: PyTree,
    *,
    ema_on_host: bool = False,
) -> Any:
    """Returns `train_step` under `jit` for one mesh; `state` is donated.

    Args:
      train_step: of `make_train_step`.
      mesh: also the mesh in whose context (`jax.set_mesh`) the result is called.
      state: arrays or shapes; they are laid out by `state_shardings`.
      frozen: likewise, by `shardings`.
      ema_on_host: see `state_shardings`.
    """
    layout = state_shardings(mesh, state, ema_on_host=ema_on_host)
    return jax.jit(
        train_step,
        in_shardings=(layout, shardings(mesh, frozen), batch_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )


def _mean_gradients(task, group, params, mutable, frozen, batch, step, seed, accumulation):
    """Returns (gradients, metrics, mutable) of one group over `accumulation` micro-batches."""
    modules = task.groups[group]

    def loss_of(trained, mutable, rows, indices):
        keys = StepKeys(step=step, indices=indices, seed=seed)
        weights, constants = gather_weights({**params, **trained}), gather_weights(frozen)
        output = task.loss(group, weights, mutable, constants, rows, keys)
        return output.loss, ({"loss": output.loss, **output.metrics}, output.mutable)

    grad = jax.grad(loss_of, has_aux=True)
    trained = _select(params, modules)
    indices = jnp.arange(jax.tree.leaves(batch)[0].shape[0], dtype=jnp.int32)
    if accumulation == 1:
        gradients, (metrics, mutable) = grad(trained, mutable, batch, indices)
        return gradients, metrics, mutable

    # Micro-batch a takes rows a, a + A, …: every device keeps its own rows, nothing moves.
    micro = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, accumulation, *x.shape[1:]), 1, 0), (batch, indices)
    )

    def accumulate(carry, rows_and_indices):
        total, mutable = carry
        gradients, (metrics, mutable) = grad(trained, mutable, *rows_and_indices)
        return (jax.tree.map(jnp.add, total, gradients), mutable), metrics

    zeros = jax.tree.map(jnp.zeros_like, trained)
    (total, mutable), metrics = jax.lax.scan(accumulate, (zeros, mutable), micro)
    gradients = jax.tree.map(lambda g: g / accumulation, total)
    return gradients, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics), mutable


def _select(params: Mapping, modules: tuple[str, ...]) -> dict:
    return {name: params[name] for name in modules}
