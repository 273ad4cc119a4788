"""Between our parameters and another project's tensors: which holds which, and how it is laid out.

An `Entry` says that one tensor of theirs holds one or several of our parameters. Import, export and
the account of what is missing follow from the list of entries of a module.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.core.types import PyTree


class Cell(NamedTuple):
    """Where one layer of ours is kept.

    Attributes:
      name: of the layer in the other project; of the tensor itself for a bare parameter.
      part: which of several layers that are kept as one, by rows, as in a fused qkv.
      heads: the parts alternate head by head (q, k and v of the first head, then of the second);
        0 where each is in one piece.
      axes: trailing axes of size 1 that a linear layer has because it is kept as a convolution.
      joint: between the layer's name and 'weight' or 'bias'.
    """

    name: str
    part: int = 0
    heads: int = 0
    axes: int = 0
    joint: str = "."


Cells = Callable[[str], Cell]

# Our names of a layer's arrays, and everybody else's.
_ARRAYS = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


class Entry(NamedTuple):
    """One tensor of another project and the parameters of ours that it holds.

    Attributes:
      theirs: name of the tensor.
      ours: paths of the parameters, 'down_0_res_0/conv_in/kernel', in the order of the parts.
      shapes: of our parameters.
      heads: see `Cell`.
      axes: see `Cell`.
    """

    theirs: str
    ours: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    heads: int = 0
    axes: int = 0

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape of their tensor."""
        turned = [self._turned(shape) for shape in self.shapes]
        rows = sum(shape[0] for shape in turned)
        return (rows, *turned[0][1:], *(1,) * (self.axes if self._is_dense else 0))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether a tensor of that shape holds these parameters.

        A linear layer may be kept as a 1x1 convolution, and the other way around.
        """
        if self._is_dense:
            return shape[:2] == self.their_shape[:2] and set(shape[2:]) <= {1}
        return shape == self.their_shape

    def to_ours(self, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields our parameters, by path."""
        if self._is_dense:
            tensor = tensor.reshape(tensor.shape[:2])
        if self.heads:
            by_head = tensor.reshape(self.heads, len(self.ours), -1, *tensor.shape[1:])
            parts = [x.reshape(-1, *tensor.shape[1:]) for x in np.moveaxis(by_head, 1, 0)]
        else:
            parts = np.split(tensor, len(self.ours)) if len(self.ours) > 1 else [tensor]
        for path, part in zip(self.ours, parts, strict=True):
            if self._is_kernel:
                part = part.T if part.ndim == 2 else part.transpose(2, 3, 1, 0)
            yield path, np.ascontiguousarray(part)

    def to_theirs(self, parameters: Sequence[np.ndarray]) -> np.ndarray:
        """Returns their tensor from our parameters, in the order of `ours`."""
        parts = list(parameters)
        if self._is_kernel:
            parts = [x.T if x.ndim == 2 else x.transpose(3, 2, 0, 1) for x in parts]
        if self.heads:
            parts = [x.reshape(self.heads, -1, *x.shape[1:]) for x in parts]
        whole = np.concatenate(parts, axis=1 if self.heads else 0) if len(parts) > 1 else parts[0]
        return np.ascontiguousarray(whole).reshape(self.their_shape)

    @property
    def _is_kernel(self) -> bool:
        return self.ours[0].rpartition("/")[2] == "kernel"

    @property
    def _is_dense(self) -> bool:
        return self._is_kernel and len(self.shapes[0]) == 2

    def _turned(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self._is_kernel:
            return shape
        return (*shape[:-3:-1], *shape[:-2])  # (h, w, in, out) to (out, in, h, w)


def make_entries(params: PyTree, cells: Cells) -> list[Entry]:
    """Returns an entry for every tensor that the parameters of a module are kept in.

    Args:
      params: nested dicts of arrays or shapes.
      cells: from the path of a layer, 'down_0_res_0/conv_in', or of a bare parameter, to its cell.
    """
    kept: dict[str, list[tuple[Cell, str, tuple[int, ...]]]] = {}
    for path, leaf in flatten(params).items():
        layer, _, array = path.rpartition("/")
        if layer and array in _ARRAYS:
            cell = cells(layer)
            name = f"{cell.name}{cell.joint}{_ARRAYS[array]}"
        else:
            cell = cells(path)
            name = cell.name
        kept.setdefault(name, []).append((cell, path, tuple(leaf.shape)))
    entries = []
    for name, rows in kept.items():
        rows.sort(key=lambda row: row[0].part)
        ours, shapes = tuple(row[1] for row in rows), tuple(row[2] for row in rows)
        entries.append(Entry(name, ours, shapes, rows[0][0].heads, rows[0][0].axes))
    return entries


def own_entries(params: PyTree) -> list[Entry]:
    """Returns the entries of our own layout: every parameter under its path, as it is."""
    return [OwnEntry(path, (path,), (tuple(x.shape),)) for path, x in flatten(params).items()]


class OwnEntry(Entry):
    """A parameter of ours in a file of ours: nothing is turned or joined."""

    @property
    def _is_kernel(self) -> bool:
        return False


def flatten(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of nested dicts by path, 'a/b/c'."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def nest(leaves: dict[str, Any]) -> PyTree:
    """Returns nested dicts from leaves by path; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
