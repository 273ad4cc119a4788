"""Distances between many feature vectors, a block of rows at a time, the rows spread over devices.

JAX rather than NumPy: two sets of 50000 vectors of 2048 features take 10 TFLOP a pass, seconds on
an accelerator and minutes on a CPU. The 50000 x 50000 distances are never in memory together: a
block holds at most 2^26 of them a device. Each device holds all columns, 0.4 GB of that size.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ldm_jax.core.axes import BATCH_AXES
from ldm_jax.core.types import Array
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.parallel.sharding import put_rows, put_whole, replicated

_MOST = 1 << 26  # distances at once on one device, 0.25 GB in float32
_ROWS, _WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()

# (squared distances [r, c], arrays of the rows, arrays of the columns) -> arrays
Measure = Callable[..., dict[str, Array]]


def squared_distances(rows: Array, columns: Array) -> Array:
    """Returns |a - b|², [r, c] float32, of vectors [r, d] and [c, d].

    As |a|² + |b|² - 2 a.b, so with an error of some 1e-7 of the vectors' squared lengths, which
    `centred` makes small.
    """
    # On TPUs and recent GPUs, products are rounded to fewer digits unless this is said.
    product = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    lengths, others = (jnp.sum(jnp.square(x), axis=1) for x in (rows, columns))
    return jnp.maximum(lengths[:, None] + others[None, :] - 2 * product, 0)


def centred(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets in float32, moved so that the mean of the first is zero."""
    mean = first.mean(axis=0, dtype=np.float64)[None, :]
    return (first - mean).astype(np.float32), (second - mean).astype(np.float32)


def squared_radii(points: np.ndarray, k: int, mesh: Mesh) -> np.ndarray:
    """Returns the squared distance of each point to its k-th nearest other one, [n] float32."""
    numbers = np.arange(len(points), dtype=np.int32)
    blocks = by_blocks(_kth_nearest(k), mesh, (points, numbers), (points, numbers), (0, -1))
    return np.concatenate([found["radius"] for _, found in blocks])


def by_blocks(
    measure: Measure,
    mesh: Mesh,
    rows: tuple[np.ndarray, ...],
    columns: tuple[np.ndarray, ...],
    fill: tuple[Any, ...],
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Yields, block by block, which rows it is of and what `measure` finds of their distances.

    Results that start with 'any_' are [c], joined by 'or' over the rows of the block; the others
    are [r]. Every process gets all of them.

    Args:
      measure: of distances [r, c], and of the arrays that follow the vectors. A pure function that
        is the same object for the same settings, since programs are kept by it.
      mesh: of the devices that share the rows.
      rows: vectors [n, d] float32, and more arrays [n], the same on every process.
      columns: vectors [m, d] float32, and more arrays [m].
      fill: what stands in each array of `rows` for the rows that the last block lacks.
    """
    shards, count = batch_shards(mesh), len(rows[0])
    size = shards * max(1, min(_MOST // len(columns[0]), -(-count // shards)))
    program = _program(measure, mesh, len(rows), len(columns))
    placed = tuple(put_whole(x, replicated(mesh)) for x in columns)
    for start in range(0, count, size):
        block = slice(start, min(start + size, count))
        missing = size - (block.stop - start)
        padded = tuple(
            np.concatenate([x[block], np.full((missing, *x.shape[1:]), value, x.dtype)])
            for x, value in zip(rows, fill, strict=True)
        )
        found = program(tuple(put_rows(mesh, x) for x in padded), placed)
        yield (
            block,
            {name: _joined(name, np.asarray(x), size - missing) for name, x in found.items()},
        )


def _joined(name: str, found: np.ndarray, rows: int) -> np.ndarray:
    """Returns a result of all devices, without the rows that were made up."""
    return np.logical_or.reduce(found) if name.startswith("any_") else found[:rows]


@functools.cache
def _program(measure: Measure, mesh: Mesh, rows: int, columns: int) -> Any:
    """Returns the compiled (rows, columns) -> results; those of 'any_' are [shards, c]."""

    def on_device(rows: tuple[Array, ...], columns: tuple[Array, ...]) -> dict[str, Array]:
        distances = squared_distances(rows[0], columns[0])
        found = measure(distances, rows[1:], columns[1:])
        return {name: x[None] if name.startswith("any_") else x for name, x in found.items()}

    # Each device works on its own rows; left to the partitioner, the search for the nearest would
    # first bring all rows together.
    split = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=((_ROWS,) * rows, (_WHOLE,) * columns),
        out_specs=_ROWS,
    )
    return jax.jit(split, out_shardings=replicated(mesh))


@functools.cache
def _kth_nearest(k: int) -> Measure:
    def measure(
        distances: Array, rows: tuple[Array, ...], columns: tuple[Array, ...]
    ) -> dict[str, Array]:
        own = rows[0][:, None] == columns[0][None, :]
        others = jnp.where(own, jnp.inf, distances)
        return {"radius": -jax.lax.top_k(-others, k)[0][:, -1]}

    return measure
