"""What every reader of a weight file offers: named tensors, read from disk one at a time."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from ldm_jax.core.checks import UserError

INDEX_SUFFIX = ".safetensors.index.json"
MAX_DIMENSIONS = 64  # of a NumPy array
TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_CHUNK = 1 << 24


class TensorInfo(NamedTuple):
    """Shape and type of a tensor; bfloat16 and the float8 types are those of ml_dtypes."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Tensors(Protocol):
    """Named tensors of a file. `tensors[key]` reads that one anew and keeps nothing in memory."""

    def keys(self) -> Iterable[str]:
        """Returns the names, in the order of the file."""

    def info(self, key: str) -> TensorInfo:
        """Returns shape and type without reading the values."""

    def __getitem__(self, key: str) -> np.ndarray: ...

    def close(self) -> None:
        """Closes the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def open_tensors(path: Path) -> Tensors:
    """Returns the tensors of a file, whose name says what is in it.

    Raises:
      UserError: there is no such file, its name is of no kind we read, or it is damaged.
    """
    # Imported here, for the readers import this module.
    from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsShards
    from ldm_jax.interop.torch_legacy import LegacyTorchFile, is_legacy
    from ldm_jax.interop.torch_pickle import TorchFile

    path, name = Path(path), Path(path).name.lower()
    if name.endswith(".safetensors"):
        return SafetensorsFile(path)
    if name.endswith(INDEX_SUFFIX):
        return SafetensorsShards(path)
    if name.endswith(TORCH_SUFFIXES):
        return LegacyTorchFile(path) if is_legacy(path) else TorchFile(path)
    legal = ", ".join((".safetensors", INDEX_SUFFIX, *TORCH_SUFFIXES))
    raise UserError(f"{path}: not a file of weights by its name. Legal: names that end in {legal}.")


def check_file(path: Path) -> None:
    """Raises UserError unless `path` is a file."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {got}. Expected a file of weights.")


def read_bytes(file: io.RawIOBase | io.BufferedIOBase, count: int) -> np.ndarray:
    """Returns the next `count` bytes, uint8, with no second copy of them in between.

    Raises:
      EOFError: there are fewer.
    """
    data = np.empty(count, np.uint8)
    done = 0
    while done < count:
        got = file.readinto(data.data[done : done + _CHUNK])
        if not got:
            raise EOFError(f"{count - done} of {count} bytes are missing")
        done += got
    return data


def are_sizes(values: Iterable[Any]) -> bool:
    """Returns whether foreign numbers are whole, not negative, and of 64 bits."""
    return all(type(n) is int and 0 <= n < 1 << 63 for n in values)


def one_line(text: Any) -> str:
    """Returns foreign text cut to one printable line."""
    return ascii(str(text))[1:-1][:120]
