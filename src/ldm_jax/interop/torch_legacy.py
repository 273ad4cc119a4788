"""PyTorch's checkpoints from before torch 1.6, read as safely as those of `torch_pickle`.

Such a file is five pickles, one after the other: a magic number, the version of the format, facts
about the machine, the objects, and a list of the storages' keys. Then comes each storage in the
order of the list: its number of elements (int64), and its bytes.
"""

import io
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.interop.tensors import read_bytes
from ldm_jax.interop.torch_pickle import MAX_PICKLE, RESAVE, TorchFile, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class LegacyTorchFile(TorchFile):
    """The tensors of a checkpoint from before torch 1.6; see `TorchFile`."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _open(self) -> None:
        # Unbuffered: a read takes what was asked for and nothing ahead of it.
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115

    def _read_top(self) -> Any:
        size = self.path.stat().st_size
        head = read_bytes(self._file, min(size, MAX_PICKLE)).tobytes()
        *parts, end = _split(head, 5)
        if unpickle(parts[0])[0] != _MAGIC or unpickle(parts[1])[0] != _VERSION:
            raise UserError(f"a pickle that is no PyTorch checkpoint. {RESAVE}")
        machine = unpickle(parts[2])[0]
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise UserError("got another byte order. Legal: little.")
        top, storages = unpickle(parts[3], is_legacy=True)
        keys = unpickle(parts[4])[0]
        if not isinstance(keys, list) or not all(
            isinstance(key, str) and key in storages for key in keys
        ):
            raise UserError("lists data that nothing refers to; the file is damaged.")
        self._spans: dict[str, tuple[int, int]] = {}
        for key in keys:
            _, dtype, numel = storages[key]
            begin = end + 8
            self._spans[key] = begin, numel * dtype.itemsize
            end = begin + numel * dtype.itemsize
            if end > size:
                raise UserError(f"truncated in its data {key!r}; fetch it again.")
            self._file.seek(begin - 8)
            count = int.from_bytes(read_bytes(self._file, 8).tobytes(), "little")
            if count != numel:
                raise UserError(f"its data {key!r}: got {count} elements, expected {numel}.")
        return top

    def _read_storage(self, key: str, begin: int, count: int) -> np.ndarray:
        self._file.seek(self._spans[key][0] + begin)
        return read_bytes(self._file, count)

    def _find_storage(self, key: str) -> tuple[str, int]:
        if key not in self._spans:
            raise UserError(f"its data, {key!r}, is missing from the file.")
        return key, self._spans[key][1]


def is_legacy(path: Path) -> bool:
    """Returns whether a file starts as a pickle does, rather than as a zip archive."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"


def _split(data: bytes, count: int) -> list[Any]:
    """Returns the first `count` pickles in `data`, and where the last of them ends."""
    stream = io.BytesIO(data)
    parts: list[Any] = []
    for _ in range(count):
        begin = stream.tell()
        try:
            for _ in pickletools.genops(stream):
                pass
        except (ValueError, LookupError, ArithmeticError, MemoryError) as error:
            raise UserError(
                f"truncated or damaged, or its objects exceed {MAX_PICKLE} bytes. {RESAVE}"
            ) from error
        parts.append(data[begin : stream.tell()])
    return [*parts, stream.tell()]
