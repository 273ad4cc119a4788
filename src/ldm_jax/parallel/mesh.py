"""The device mesh `(data, fsdp, tensor)`."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from ldm_jax.core.axes import BATCH_AXES, MESH_AXES
from ldm_jax.core.checks import UserError


def make_mesh(shape: Sequence[int] = (-1, 1, 1), devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with axes `(data, fsdp, tensor)` over `devices`, by default all of them.

    Args:
      shape: three sizes; one of them may be -1 and takes the devices that are left.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [int(size) for size in shape]
    known = math.prod(size for size in sizes if size != -1)
    if len(sizes) != 3 or sizes.count(-1) > 1 or known < 1 or any(s < -1 for s in sizes):
        raise UserError(
            f"mesh={tuple(shape)}: expected three positive sizes {MESH_AXES}, at most one -1."
        )
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh={tuple(shape)}: the sizes must multiply to this run's {len(devices)} device(s)."
        )
    types = (AxisType.Auto,) * len(sizes)
    mesh = jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=types, devices=devices)
    placed = mesh.devices.reshape(batch_shards(mesh), -1)
    owners = np.array([[device.process_index for device in shard] for shard in placed])
    placed = placed[order_by_process(owners)].reshape(mesh.devices.shape)
    return Mesh(placed, MESH_AXES, axis_types=types)


def order_by_process(owners: np.ndarray) -> np.ndarray:
    """Returns an order of the shards of a batch in which those of a process lie together.

    JAX lays a mesh along the network, where a host of a TPU slice is a tile of 2 x 2 chips: its
    shards would lie apart, and a process loads one block of rows. Shards that several processes
    hold stay where they are.

    Args:
      owners: [shards, n] the process of each of a shard's devices.
    """
    if np.any(owners != owners[:, :1]):
        return np.arange(len(owners))
    return np.argsort(owners[:, 0], kind="stable")


def read_mesh_sizes(text: str) -> tuple[int, int, int]:
    """Returns the sizes of `--mesh 2,4,1`.

    Raises:
      UserError: not three whole numbers.
    """
    if not re.fullmatch(r"(-?\d{1,9}),(-?\d{1,9}),(-?\d{1,9})", text, re.ASCII):
        raise UserError(f"--mesh={text}: legal are three sizes {MESH_AXES}, such as 2,4,1.")
    data, fsdp, tensor = map(int, text.split(","))
    return data, fsdp, tensor


def make_abstract_mesh(shape: Sequence[int]) -> AbstractMesh:
    """Returns a mesh of devices that need not exist, to lay arrays out on.

    Raises:
      UserError: the sizes are not three positive numbers.
    """
    sizes = tuple(int(size) for size in shape)
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(
            f"mesh={sizes}: no devices are counted here. Legal: three positive sizes {MESH_AXES}."
        )
    return AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts a batch is split: data × fsdp."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(mesh: Mesh, batch_size: int, accumulation: int = 1) -> None:
    """Raises UserError unless every device gets the same number of whole micro-batch rows."""
    unit = batch_shards(mesh) * accumulation
    if batch_size < 1 or batch_size % unit:
        raise UserError(
            f"train.batch_size={batch_size} must be a multiple of data × fsdp × accumulation = "
            f"{unit}. Legal: {unit}, {2 * unit}, {3 * unit}, …"
        )


def batch_block(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): this process holds block `index` of `count` of each batch's rows.

    Blocks follow the order of the mesh, so that a batch has the same rows in the same places on any
    number of processes. Processes that share a block, as `tensor` reaches over both, load the same.

    Raises:
      UserError: the rows of a process do not lie together.
    """
    owners = np.array([device.process_index for device in mesh.devices.flat])
    return block_of(owners.reshape(batch_shards(mesh), -1), jax.process_index())


def block_of(owners: np.ndarray, process: int) -> tuple[int, int]:
    """Returns (index, count) of a process's rows, where `owners` [shards, n] hold each shard."""
    held = {p: np.flatnonzero((owners == p).any(axis=1)) for p in np.unique(owners).tolist()}
    size = len(held[process])
    for rows in held.values():
        if len(rows) != size or rows[0] % size or rows[-1] - rows[0] != size - 1:
            raise UserError(
                "train.mesh: the rows of a process would not lie together. Legal: sizes whose last "
                "ones multiply to a divisor or a multiple of the devices of one process."
            )
    return int(held[process][0]) // size, len(owners) // size
