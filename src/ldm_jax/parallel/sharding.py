"""Sharding as data: regular expressions on parameter paths, resolved once to NamedShardings.

Tensor parallelism splits attention over heads and feed-forward layers over their width, in the
pattern of Megatron-LM (Shoeybi et al. 2019, section 3): the first projection by columns, the
second by rows, so one all-reduce closes each block. FSDP then splits the largest axis left
that divides (ZeRO stage 3, Rajbhandari et al. 2020). Optimizer moments and EMA end in the same
path as their parameter, so they land beside it.

FSDP is a way to store, tensor parallelism a way to compute: `gather_weights` stands between.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ldm_jax.core.axes import BATCH_AXES, FSDP, TENSOR, automatic_mesh
from ldm_jax.parallel.mesh import batch_block

Rule = tuple[str, tuple[str | None, ...]]

# (pattern searched in the path, mesh axis per array axis); the first match wins. A part of a tree
# is laid out as it is within the whole, so no pattern may ask for what stands above a module.
RULES: tuple[Rule, ...] = (
    # A first stage's attention has a single head. Splitting its width would add up n x n logits
    # over the devices, which costs more than the products that it saves.
    (r"(^|/)(encoder|decoder)/.*/kernel$", (None, None)),
    (r"(^|/)(encoder|decoder)/.*/bias$", (None,)),
    (r"(^|/)(to_q|to_k|to_v|value|gate|hidden)/kernel$", (None, TENSOR)),
    (r"(^|/)(to_q|to_k|to_v|value|gate|hidden)/bias$", (TENSOR,)),
    (r"(^|/)(to_out|out)/kernel$", (TENSOR, None)),
)


def path_name(path: Sequence[Any]) -> str:
    """Returns a JAX key path as 'params/unet/conv_in/kernel'."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def partition_spec(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Sequence[Rule] = RULES,
) -> PartitionSpec:
    """Returns where one array lives: tensor axes by rule, then FSDP on the largest axis left.

    An axis that the mesh does not divide stays whole.
    """
    spec: list[str | None] = [None] * len(shape)
    for pattern, axes in rules:
        if len(axes) == len(shape) and re.search(pattern, name):
            for i, axis in enumerate(axes):
                if axis is not None and shape[i] % mesh.shape[axis] == 0:
                    spec[i] = axis
            break
    if mesh.shape[FSDP] > 1:
        free = [
            i for i, size in enumerate(shape) if spec[i] is None and size % mesh.shape[FSDP] == 0
        ]
        if free:
            spec[max(free, key=lambda i: shape[i])] = FSDP
    return PartitionSpec(*spec)


def shardings(mesh: Mesh | AbstractMesh, tree: Any, rules: Sequence[Rule] = RULES) -> Any:
    """Returns a NamedSharding for every array (or ShapeDtypeStruct) of a pytree."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, partition_spec(path_name(path), leaf.shape, mesh, rules)
        ),
        tree,
    )


def gather_weights(tree: Any, rules: Sequence[Rule] = RULES) -> Any:
    """Returns parameters as a computation reads them: whole along `fsdp`, split by `rules` alone.

    Their gradient is split as they are stored, so it is summed straight into its parts
    (reduce-scatter). Both are said here because the partitioner, left alone with a weight in
    parts, also splits convolutions over their channels and sums activations between devices.

    Without an automatic mesh it is the identity.
    """
    mesh = automatic_mesh()
    if mesh is None:
        return tree

    def gather(path: Sequence[Any], leaf: Any) -> Any:
        stored = partition_spec(path_name(path), leaf.shape, mesh, rules)
        used = PartitionSpec(*(None if axis == FSDP else axis for axis in stored))
        return _relayout(leaf, used, stored)

    return jax.tree_util.tree_map_with_path(gather, tree)


def _relayout(x: Any, spec: PartitionSpec, gradient_spec: PartitionSpec) -> Any:
    """Returns `x` laid out by `spec`, whose cotangent is laid out by `gradient_spec`."""
    relayout = jax.custom_vjp(lambda x: jax.lax.with_sharding_constraint(x, spec))
    relayout.defvjp(
        lambda x: (relayout(x), None),
        lambda _, g: (jax.lax.with_sharding_constraint(g, gradient_spec),),
    )
    return relayout(x)


def placed(mesh: Mesh | AbstractMesh, abstract: Any, rules: Sequence[Rule] = RULES) -> Any:
    """Returns ShapeDtypeStructs that carry their sharding, as checkpoints are restored to."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings(mesh, abstract, rules),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Returns a global, sharded batch from the rows of this process's block."""
    sharding, (_, count) = batch_sharding(mesh), batch_block(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(
            sharding, x, (len(x) * count, *x.shape[1:])
        ),
        batch,
    )


def put_rows(mesh: Mesh, rows: Any) -> Any:
    """Returns a global, sharded batch whose rows every process holds whole.

    Each process hands over those of its own devices.
    """
    index, count = batch_block(mesh)
    return put_batch(mesh, jax.tree.map(lambda x: np.split(x, count)[index], rows))


def put_whole(tree: Any, layout: Any) -> Any:
    """Returns arrays, which every process holds whole, laid out by a tree of shardings or by one.

    Or they lie on the same devices in another way. `device_put` would send all that the host holds
    around, to see whether the processes agree.
    """

    def put(x: Any, sharding: Any) -> Any:
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.jit(_same, out_shardings=sharding)(x)
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda at: whole[at])

    if isinstance(layout, NamedSharding):
        return jax.tree.map(lambda x: put(x, layout), tree)
    return jax.tree.map(put, tree, layout)


def _same(x: Any) -> Any:
    return x


def on_host(x: Any) -> np.ndarray:
    """Returns an array whole, on every process; if it lies on several, all must call it."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        from jax.experimental.multihost_utils import process_allgather

        return np.asarray(process_allgather(x, tiled=True))
    return np.asarray(x)


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that one device holds of a sharded pytree (arrays or shape structs)."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
