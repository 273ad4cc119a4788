"""The published weights of the Inception v3 that defines the FID."""

from pathlib import Path

import jax
import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import Cell, Entry, make_entries, nest
from ldm_jax.interop.tensors import Tensors, open_tensors
from ldm_jax.models.inception import Inception

LEGAL = (
    "Legal: the weights that pytorch-fid publishes as pt_inception-2015-12-05-6726825d.pth and "
    "torch-fidelity as weights-inception-2015-12-05-6726825d.pth."
)


def load_inception(path: str | Path) -> PyTree:
    """Returns the parameters of `models.inception.Inception`, nested dicts of float32 arrays.

    What else is in the file, such as the bias of the logits, is not read.

    Args:
      path: the .pth of pytorch-fid or torch-fidelity, or a .safetensors file with its names.

    Raises:
      UserError: there is no such file, or it does not hold these weights.
    """
    path = Path(path).expanduser()
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 1, 1, 3), np.uint8)
    shapes = jax.eval_shape(Inception().init, key, image)["params"]
    entries = make_entries(shapes, _torch_cell)
    with open_tensors(path) as file:
        names = set(file.keys())
        missing = [entry.theirs for entry in entries if entry.theirs not in names]
        if missing:
            raise UserError(
                f"{path}: {len(missing)} of Inception's {len(entries)} tensors are missing, such "
                f"as {missing[0]!r}. {LEGAL}"
            )
        for entry in entries:
            _check(path, file, entry)
        return nest(dict(pair for entry in entries for pair in entry.to_ours(file[entry.theirs])))


def _check(path: Path, file: Tensors, entry: Entry) -> None:
    """Raises UserError unless the tensor has the shape and the type of the published one."""
    shape, dtype = file.info(entry.theirs)
    if shape != entry.their_shape:
        hint = ""
        if entry.theirs == "fc.weight":
            hint = " torchvision's Inception v3, with 1000 classes, is another network."
        raise UserError(
            f"{path}: {entry.theirs!r}: got shape {shape}, expected {entry.their_shape}."
            f"{hint} {LEGAL}"
        )
    if dtype != np.float32:
        raise UserError(f"{path}: {entry.theirs!r}: got {dtype}, expected float32. {LEGAL}")


def _torch_cell(path: str) -> Cell:
    """Returns where PyTorch keeps a layer, 'Mixed_5b/branch1x1/bn', or a statistic of it."""
    layer, _, array = path.rpartition("/")
    if array in ("mean", "var"):
        path = f"{layer}/running_{array}"
    return Cell(path.replace("/", "."))
