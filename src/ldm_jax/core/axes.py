"""Mesh axis names, and the one constraint that models place on their activations."""

import math

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from ldm_jax.core.types import Array

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
MESH_AXES = (DATA, FSDP, TENSOR)
BATCH_AXES = (DATA, FSDP)


def automatic_mesh() -> AbstractMesh | None:
    """Returns the mesh that XLA partitions the present computation over, if there is one.

    There is none without `jax.set_mesh`, and none inside `jax.shard_map`, which sees one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or not set(MESH_AXES) <= set(mesh.axis_names):
        return None
    return mesh


def shard_batch(x: Array) -> Array:
    """Returns `x` with its first axis split over `data` and `fsdp`, the rest whole.

    Placed at block borders, it stops the partitioner from following a weight's sharding into the
    activations. A batch that does not divide, such as the one null condition, is whole on every
    device. Without an automatic mesh it is the identity.
    """
    mesh = automatic_mesh()
    if mesh is None:
        return x
    axes = BATCH_AXES if batch_divides(mesh, x.shape[0]) else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def batch_divides(mesh: AbstractMesh, rows: int) -> bool:
    """Returns whether so many rows split evenly over `data` and `fsdp`."""
    return rows % math.prod(mesh.shape[axis] for axis in BATCH_AXES) == 0
