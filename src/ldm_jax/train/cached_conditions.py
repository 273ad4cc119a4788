"""The answers of a frozen conditioner, computed once: for a cache, and a run that reads them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.sharding import batch_sharding, put_batch, put_whole, shardings
from ldm_jax.tasks.first_stage import Answered, Frozen
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask

DTYPES = ("float16", "float32")
_READABLE = ("tokens", "class")  # what an example's labels settle, however it is cropped
_ROUTES = ("context", "embedding")

ConditionEncoder = Callable[[Mapping[str, np.ndarray]], list[Array]]


def check_cacheable(task: LatentDiffusionTask, dtype: str) -> None:
    """Raises UserError unless the answers of a task's conditioner can be encoded beforehand."""
    check_in("--conditioning", dtype, DTYPES)
    if not task.has_frozen_conditioner:
        raise UserError(
            f"--conditioning={dtype}: this conditioner is trained, so its answers change. Legal: "
            "with config.task.train_conditioner=False."
        )
    reads = task.conditioner.inputs
    if not reads or not set(reads) <= set(_READABLE):
        raise UserError(
            f"--conditioning={dtype}: this conditioner reads {', '.join(reads) or 'nothing'}. "
            f"Legal: one of {', '.join(_READABLE)}."
        )


def answer_shapes(task: LatentDiffusionTask, params: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one example's answer on each route.

    Raises:
      UserError: a route that no cache has a place for.
    """
    inputs = {
        name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
        for name, x in task.conditioner.input_shapes(task.image_size).items()
    }
    found = _routes(jax.eval_shape(task.conditioner.apply, {"params": params}, inputs))
    for route in found:
        check_in("--conditioning: a route of the conditioner", route, _ROUTES)
    return {route: tuple(x.shape[1:]) for route, x in found.items()}


def make_condition_encoder(
    task: LatentDiffusionTask, mesh: Mesh, params: PyTree, dtype: str
) -> ConditionEncoder:
    """Returns inputs [n, …] -> answers [n, …] by route, rows split over the devices."""

    def answer(params: PyTree, inputs: Mapping[str, Array]) -> list[Array]:
        found = task.conditioner.apply({"params": params}, inputs)
        return [x.astype(dtype) for x in _routes(found).values()]

    rows = batch_sharding(mesh)
    compiled = jax.jit(
        answer,
        in_shardings=(shardings(mesh, params), rows),
        out_shardings=rows,
        compiler_options=compiler_options(mesh),
    )

    def encode_conditions(inputs: Mapping[str, np.ndarray]) -> list[Array]:
        with jax.set_mesh(mesh):
            return compiled(params, put_batch(mesh, inputs))

    return encode_conditions


def without_conditioner(task: LatentDiffusionTask, frozen: Frozen, mesh: Mesh) -> Answered:
    """Returns what a run needs that reads the answers from its cache: the null one for the tower.

    Args:
      task: of the run.
      frozen: with the conditioner, whose memory is free once nothing else holds it.
      mesh: of the run.
    """
    null = jax.jit(lambda frozen: task.null_condition({}, frozen))(frozen)
    null = put_whole(null, shardings(mesh, null))
    return Answered(frozen.params, frozen.latent_scale, null=null)


def _routes(found: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Conditioning)]
    return {name: x for name in names if (x := getattr(found, name)) is not None}
