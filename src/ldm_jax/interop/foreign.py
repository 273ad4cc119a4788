"""What a checkpoint of any layout looks like once its own conventions are understood."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import Cells, Entry, make_entries, nest
from ldm_jax.interop.tensors import TensorInfo, Tensors

COMPONENTS = ("first_stage", "conditioner", "unet")

Entries = Callable[[Any, PyTree], list[Entry]]
Progress = Callable[[int], object]


def entries_by(cells: Callable[[Any], Cells]) -> Entries:
    """Returns `(module, its parameters) -> entries` for one naming of a module's layers."""
    return lambda module, params: make_entries(params, cells(module))


def data_settings(image_size: int, channels: int = 3) -> dict[str, Any]:
    """Returns the group `data` of an imported model, whose images are nobody's in particular."""
    data: dict[str, Any] = {"source": {"name": "folder"}, "image_size": image_size}
    return data | ({"channels": channels} if channels != 3 else {})


@dataclasses.dataclass(frozen=True)
class Component:
    """One module of a checkpoint.

    Attributes:
      tensors: under the names that `entries` gives them.
      entries: from the Flax module and its abstract parameters to the entries.
      unused: whether a tensor is known to hold nothing that a model needs.
    """

    tensors: Tensors
    entries: Entries
    unused: Callable[[str], bool] = lambda name: False


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A checkpoint as found.

    Attributes:
      layout: 'compvis', 'diffusers' or 'ldm_jax'.
      settings: the groups `task`, `data` and `sample` of the configuration that it amounts to.
      components: by name, a subset of COMPONENTS.
      strays: tensors of the file that belong to no component.
      tokenizer: folder or file of the tokenizer, if the checkpoint has one.
      notes: what a user should know about how it was read, a line each.
      scale_factor: of the latents, as a buffer of the file has it.
      scale_record: what the scale of the latents was measured on, where our layout tells.
    """

    layout: str
    settings: dict[str, Any]
    components: Mapping[str, Component]
    strays: tuple[str, ...] = ()
    tokenizer: Path | None = None
    notes: tuple[str, ...] = ()
    scale_factor: float | None = None
    scale_record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def close(self) -> None:
        """Closes the files."""
        for component in self.components.values():
            component.tensors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Account(NamedTuple):
    """What does not fit between a module and the tensors that should hold it.

    Attributes:
      missing: tensors that the module needs and the file lacks.
      unexpected: tensors that the module has no place for.
      mismatched: (name, shape found, shape expected).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def is_clean(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.mismatched)


def take_account(entries: Iterable[Entry], component: Component) -> Account:
    """Returns what does not fit; reads names and shapes only."""
    found = dict.fromkeys(component.tensors.keys())
    expected = {entry.theirs: entry for entry in entries}
    mismatched = []
    for name in expected.keys() & found.keys():
        shape = tuple(component.tensors.info(name).shape)
        if not expected[name].fits(shape):
            mismatched.append((name, shape, expected[name].their_shape))
    return Account(
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(
            name for name in found if name not in expected and not component.unused(name)
        ),
        mismatched=tuple(sorted(mismatched)),
    )


def read_parameters(
    entries: Iterable[Entry], tensors: Tensors, progress: Progress | None = None
) -> PyTree:
    """Returns the parameters that fit, as nested dicts of NumPy arrays of the file's types.

    Args:
      entries: of the module.
      tensors: one is in memory at a time, beside the result.
      progress: called with the bytes of each tensor.
    """
    found = set(tensors.keys())
    leaves: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.theirs in found and entry.fits(tuple(tensors.info(entry.theirs).shape)):
            tensor = tensors[entry.theirs]
            leaves.update(entry.to_ours(tensor))
            if progress is not None:
                progress(tensor.nbytes)
    return nest(leaves)


class Renamed:
    """Some tensors of a file, under other names.

    Args:
      tensors: the file.
      names: from the new name to the file's.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str]):
        self._tensors, self._names = tensors, names

    def keys(self) -> Iterator[str]:
        """Returns the new names."""
        return iter(self._names)

    def info(self, key: str) -> TensorInfo:
        """Returns shape and type."""
        return self._tensors.info(self._names[key])

    def __getitem__(self, key: str) -> np.ndarray:
        return self._tensors[self._names[key]]

    def close(self) -> None:
        """Closes the file."""
        self._tensors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
