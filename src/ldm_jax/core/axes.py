"""Mesh axis names, and the one constraint that models place on their activations."""

import math

import jax
from jax.sharding import PartitionSpec

from ldm_jax.core.types import Array

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
MESH_AXES = (DATA, FSDP, TENSOR)
BATCH_AXES = (DATA, FSDP)


def shard_batch(x: Array) -> Array:
    """Returns `x` with its first axis split over `data` and `fsdp`, the rest whole.

    Placed at block borders, it stops the partitioner from following a weight's sharding into the
    activations. A batch that does not divide, such as the one null condition, is whole on every
    device. Without a mesh it is the identity.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return x
    divides = x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES) == 0
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES if divides else None))
