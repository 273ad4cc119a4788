"""Where the state of a run lies: which device holds what, and in which memory."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from ldm_jax.parallel.host_memory import on_host
from ldm_jax.parallel.sharding import shardings
from ldm_jax.train.state import TrainState


def state_shardings(mesh: Mesh, state: TrainState, *, ema_on_host: bool = False) -> Any:
    """Returns a sharding for every array of a state: moments and averages as their parameters.

    Args:
      mesh: of the run.
      state: arrays or shapes.
      ema_on_host: the averages, a quarter of the bytes under AdamW, lie in host memory.
    """
    layout = shardings(mesh, state)
    if not ema_on_host:
        return layout
    return dataclasses.replace(layout, ema_params=on_host(layout.ema_params))


def placed_state(mesh: Mesh, abstract: TrainState, *, ema_on_host: bool = False) -> TrainState:
    """Returns shapes that carry their shardings, as a checkpoint is restored to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(mesh, abstract, ema_on_host=ema_on_host),
    )
