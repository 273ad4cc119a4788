"""A table of what lands where: arrays by the pattern of their path, and bytes per device."""

import re
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh

from ldm_jax.parallel.sharding import bytes_per_device, path_name, placed


class Placement(NamedTuple):
    """Arrays whose paths differ in numbers only, and that are laid out alike.

    Attributes:
      where: their path, with * for numbers.
      arrays: how many they are.
      shape: of each.
      dtype: of each.
      split: the mesh axis of each axis; None for whole.
      bytes_per_device: of all of them.
    """

    where: str
    arrays: int
    shape: tuple[int, ...]
    dtype: str
    split: tuple[str | None, ...]
    bytes_per_device: int


def placements(mesh: Mesh | AbstractMesh, tree: Any) -> list[Placement]:
    """Returns where the arrays of a pytree land by `parallel.sharding`, in its order.

    Args:
      mesh: its devices need not exist.
      tree: arrays or shapes.
    """
    groups: dict[tuple, list[int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed(mesh, tree)):
        where = re.sub(r"\d+", "*", path_name(path))
        key = (where, leaf.shape, str(leaf.dtype), tuple(leaf.sharding.spec))
        groups.setdefault(key, []).append(bytes_per_device(leaf))
    return [
        Placement(where, len(sizes), shape, dtype, split, sum(sizes))
        for (where, shape, dtype, split), sizes in groups.items()
    ]


def placed_bytes(mesh: Mesh | AbstractMesh, tree: Any) -> int:
    """Returns the bytes that one device holds of a pytree laid out by `parallel.sharding`."""
    return bytes_per_device(placed(mesh, tree))


def placement_table(rows: list[Placement]) -> str:
    """Returns the rows as aligned text, the largest first."""
    cells = [("where", "arrays", "shape", "split", "bytes per device")]
    for row in sorted(rows, key=lambda row: -row.bytes_per_device):
        shape = "×".join(map(str, row.shape)) or "scalar"
        cells.append(
            (
                row.where,
                f"{row.arrays:,}",
                shape,
                split_text(row.split),
                f"{row.bytes_per_device:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        f"{where:{widths[0]}}  {arrays:>{widths[1]}}  {shape:{widths[2]}}  {split:{widths[3]}}  "
        f"{size:>{widths[4]}}"
        for where, arrays, shape, split, size in cells
    )


def split_text(split: tuple[str | None, ...]) -> str:
    """Returns (None, 'fsdp') as '-, fsdp', and 'whole' where nothing is split."""
    return ", ".join(axis or "-" for axis in split) if any(split) else "whole"
