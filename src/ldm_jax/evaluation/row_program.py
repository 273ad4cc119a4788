"""One compiled program over any number of rows, a batch at a time, spread over devices."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import batch_shards, make_mesh
from ldm_jax.parallel.sharding import (
    batch_sharding,
    gather_weights,
    put_rows,
    put_whole,
    replicated,
    shardings,
)


class RowProgram:
    """Maps rows [n, …] to results by name, [n, …] each, of which row k knows row k alone.

    With several processes, each hands over all rows and gets all results.

    Args:
      params: laid out over the mesh once, by `parallel.sharding.RULES`.
      apply: (params, rows [b, …]) -> results by name; pure.
      batch_size: rows at once, rounded up to a multiple of the devices that share a batch.
      mesh: of the devices; all of them by default.

    Raises:
      UserError: a batch of nothing.
    """

    def __init__(
        self,
        params: PyTree,
        apply: Callable[[PyTree, Array], dict[str, Array]],
        batch_size: int,
        mesh: Mesh | None = None,
    ):
        if batch_size < 1:
            raise UserError(f"evaluation: batch_size={batch_size}. Legal: 1 or more.")
        self._mesh = mesh = make_mesh() if mesh is None else mesh
        self._batch_size = -(-batch_size // batch_shards(mesh)) * batch_shards(mesh)
        layout = shardings(mesh, params)
        self._params = put_whole(params, layout)
        self._apply = jax.jit(
            lambda params, rows: apply(gather_weights(params), rows),
            in_shardings=(layout, batch_sharding(mesh)),
            out_shardings=replicated(mesh),
            compiler_options=compiler_options(mesh),
        )

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the results of one row or more."""
        found: list[dict[str, np.ndarray]] = []
        running: list[tuple[dict[str, Array], int]] = []
        for start in range(0, len(rows), self._batch_size):
            block = rows[start : start + self._batch_size]
            missing = self._batch_size - len(block)
            padded = np.concatenate([block, np.repeat(block[:1], missing, axis=0)])
            # The devices have the next batch before the host waits for the last one.
            running.append((self._apply(self._params, put_rows(self._mesh, padded)), len(block)))
            if len(running) > 1:
                found.append(_on_host(*running.pop(0)))
        found += [_on_host(*one) for one in running]
        return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def _on_host(batch: dict[str, Array], count: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(x)[:count] for name, x in batch.items()}
