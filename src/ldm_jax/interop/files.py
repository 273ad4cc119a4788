"""Writing a model: which files, which tensors in each, one component in memory at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import Entry, flatten
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo

Load = Callable[[str], PyTree]
Progress = Callable[[int], object]


class WeightFile(NamedTuple):
    """A safetensors file to be written.

    Attributes:
      path: where.
      parts: (component, entries), in the order of writing.
      extras: small tensors that belong to no component.
    """

    path: Path
    parts: Sequence[tuple[str, Sequence[Entry]]]
    extras: Mapping[str, np.ndarray] = {}


def write_weights(
    files: Sequence[WeightFile],
    infos: Mapping[str, Mapping[str, TensorInfo]],
    load: Load,
    progress: Progress | None = None,
) -> None:
    """Writes every file under a temporary name until it is whole.

    Args:
      files: what to write.
      infos: of our parameters, by component and path.
      load: component -> its parameters; called once per component and file.
      progress: called with the bytes of each tensor.
    """
    for file in files:
        header = {name: TensorInfo(x.shape, x.dtype) for name, x in file.extras.items()}
        for component, entries in file.parts:
            for entry in entries:
                dtype = infos[component][entry.ours[0]].dtype
                header[entry.theirs] = TensorInfo(entry.their_shape, dtype)
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with SafetensorsWriter(file.path, header, {"format": "pt"}) as writer:
            for name, extra in file.extras.items():
                writer.write(name, extra)
            for component, entries in file.parts:
                leaves = flatten(load(component))
                for entry in entries:
                    tensor = entry.to_theirs([leaves.pop(path) for path in entry.ours])
                    writer.write(entry.theirs, tensor)
                    if progress is not None:
                        progress(tensor.nbytes)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an indented JSON file under a temporary name until it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
