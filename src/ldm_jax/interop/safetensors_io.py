"""Safetensors files, read and written one tensor at a time.

A file is the header's length (8 bytes, little-endian), the header (JSON: for each tensor `dtype`,
`shape` and `data_offsets`, counted from the header's end), then the data, without holes. Files are
read rather than memory-mapped: mapped pages would count as this process's memory.
Format: https://github.com/huggingface/safetensors#format
"""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, Self, TypeGuard

import ml_dtypes
import numpy as np

from ldm_jax.core.checks import UserError, check_in, check_shape, read_text
from ldm_jax.interop.tensors import (
    MAX_DIMENSIONS,
    TensorInfo,
    are_sizes,
    check_file,
    read_bytes,
)

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000  # bytes; the format's own limit


class SafetensorsFile:
    """The tensors of one safetensors file; see `Tensors`.

    Attributes:
      metadata: what the writer noted, text by name.
    """

    metadata: dict[str, str]

    def __init__(self, path: Path):
        self.path = Path(path)
        check_file(self.path)
        # Unbuffered: a read takes what was asked for and nothing ahead of it.
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def keys(self) -> Iterable[str]:
        """Returns the names, in the order of the header."""
        return self._infos.keys()

    def info(self, key: str) -> TensorInfo:
        """Returns shape and type without reading the values."""
        return self._infos[key]

    def __getitem__(self, key: str) -> np.ndarray:
        shape, dtype = self._infos[key]
        begin, end = self._offsets[key]
        self._file.seek(self._start + begin)
        try:
            return read_bytes(self._file, end - begin).view(dtype).reshape(shape)
        except EOFError as error:
            raise UserError(f"{self.path}: truncated in tensor {key!r}: {error}.") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        self._start = 8 + length
        if self._start > size or length > _MAX_HEADER:
            raise UserError(
                f"{self.path}: no safetensors file, or truncated: {size} bytes with a header of "
                f"{length}. Legal: 8 bytes + a header of at most {_MAX_HEADER} + the data."
            )
        try:
            header = json.loads(read_bytes(self._file, length).tobytes().decode())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: the header is no JSON. Expected safetensors.") from error
        if not isinstance(header, dict):
            raise UserError(f"{self.path}: the header is no JSON object. Expected safetensors.")
        self.metadata = header.pop(_METADATA, {})
        if not _is_text_map(self.metadata):
            raise UserError(f"{self.path}: {_METADATA} is damaged. Legal: text by name.")
        self._infos: dict[str, TensorInfo] = {}
        self._offsets: dict[str, tuple[int, int]] = {}
        for key, entry in header.items():
            self._infos[key], self._offsets[key] = _parse_entry(f"{self.path}: {key!r}", entry)
        self._check_offsets(size - self._start)

    def _check_offsets(self, data_size: int) -> None:
        """Raises UserError unless the tensors fill the data one after the other."""
        spans = sorted(self._offsets.values())
        ends = [0, *(end for _, end in spans)]
        begins = [*(begin for begin, _ in spans), data_size]
        if ends != begins:
            at = next(end for end, begin in zip(ends, begins, strict=True) if end != begin)
            raise UserError(
                f"{self.path}: damaged or truncated: its tensors should fill {data_size} bytes of "
                f"data without hole or overlap, and do not from byte {at} on."
            )


class SafetensorsShards:
    """The tensors of the files that a Hugging Face `*.safetensors.index.json` lists."""

    def __init__(self, path: Path):
        self.path = Path(path)
        check_file(self.path)
        self._shard_of = self._read_index()
        with contextlib.ExitStack() as stack:
            shards = {
                name: stack.enter_context(SafetensorsFile(self.path.parent / name))
                for name in sorted(set(self._shard_of.values()))
            }
            self._shards = shards
            for key, name in self._shard_of.items():
                if key not in shards[name]._infos:
                    raise UserError(f"{self.path}: tensor {key!r} is not in {name}, as it says.")
            self._stack = stack.pop_all()

    def keys(self) -> Iterable[str]:
        """Returns the names, in the order of the index."""
        return self._shard_of.keys()

    def info(self, key: str) -> TensorInfo:
        """Returns shape and type without reading the values."""
        return self._shards[self._shard_of[key]].info(key)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._shards[self._shard_of[key]][key]

    def close(self) -> None:
        """Closes all shards."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read_index(self) -> dict[str, str]:
        try:
            index = json.loads(read_text(self.path, "index"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{self.path}: no JSON. Expected a Hugging Face index.") from error
        shard_of = index.get("weight_map") if isinstance(index, dict) else None
        if not _is_text_map(shard_of):
            raise UserError(f"{self.path}: no weight_map. Expected a file name by tensor name.")
        for name in shard_of.values():
            if PurePath(name).name != name or not name.endswith(".safetensors"):
                raise UserError(
                    f"{self.path}: got shard {name!r}. Legal: a .safetensors file beside the index."
                )
        return shard_of


class SafetensorsWriter:
    """Writes a safetensors file one tensor at a time, in any order.

    As a context manager it writes to `path` + '.tmp', and renames that when all is written or
    deletes it when something went wrong:

        with SafetensorsWriter(path, {key: TensorInfo(shape, dtype), …}) as writer:
            writer.write(key, array)

    Args:
      path: of the file to come.
      infos: shape and type of every tensor.
      metadata: text by name; PyTorch projects expect `{"format": "pt"}`.
    """

    def __init__(
        self,
        path: Path,
        infos: Mapping[str, TensorInfo],
        metadata: Mapping[str, str] = {},
    ):
        self.path = Path(path)
        self._tmp = self.path.with_name(self.path.name + ".tmp")
        self._infos = {
            key: TensorInfo(tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in infos.items()
        }
        self._written: set[str] = set()
        self._header, self._offsets = self._layout(dict(metadata))

    def write(self, key: str, array: np.ndarray) -> None:
        """Writes one tensor; each is written once.

        Raises:
          UserError: `infos` does not have it so.
        """
        shape, dtype = self._infos[key]
        array = np.asarray(array)
        check_shape(f"{self.path}: {key!r}", array.shape, shape)
        if array.dtype != dtype:
            raise UserError(f"{self.path}: {key!r}: got {array.dtype}, expected {dtype}.")
        if key in self._written:
            raise RuntimeError(f"{self.path}: {key!r} is written already.")
        self._file.seek(self._offsets[key])
        self._file.write(array.reshape(-1).view(np.uint8).data)
        self._written.add(key)

    def __enter__(self) -> Self:
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path}: its folder does not exist. Legal: a folder that does.")
        self._file = open(self._tmp, "wb")
        try:
            self._file.write(self._header)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        try:
            missing = [key for key in self._infos if key not in self._written]
            if exc_type is None and missing:
                raise RuntimeError(f"{self.path}: never written: {', '.join(missing)}.")
            if exc_type is None:
                self._file.close()
                self._tmp.replace(self.path)
        finally:
            self._abandon()  # after the renaming, there is nothing left to delete

    def _abandon(self) -> None:
        # A full disk can make closing fail as well; the part-written file goes all the same.
        with contextlib.suppress(OSError):
            self._file.close()
        self._tmp.unlink(missing_ok=True)

    def _layout(self, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
        """Returns the bytes before the data, and where in the file each tensor begins."""
        if not _is_text_map(metadata):
            raise UserError(f"{self.path}: got metadata {metadata!r}. Legal: text by name.")
        if _METADATA in self._infos:
            raise UserError(f"{self.path}: {_METADATA} is no legal name of a tensor.")
        for key, info in self._infos.items():
            check_in(f"{self.path}: type of {key!r}", info.dtype, _NAMES)
        # Larger items first: then each begins at a multiple of its item size.
        keys = sorted(self._infos, key=lambda key: (-self._infos[key].dtype.itemsize, key))
        ends = list(itertools.accumulate((_nbytes(self._infos[key]) for key in keys), initial=0))
        header: dict[str, Any] = {_METADATA: metadata} if metadata else {}
        for key, begin, end in zip(keys, ends, ends[1:], strict=False):
            shape, dtype = self._infos[key]
            entry = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": (begin, end)}
            header[key] = entry
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        offsets = {key: start + begin for key, begin in zip(keys, ends, strict=False)}
        return len(text).to_bytes(8, "little") + text, offsets


def _parse_entry(what: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    """Returns one tensor's shape, type and span of bytes from its entry in the header."""
    entry = entry if isinstance(entry, dict) else {}
    shape, span = entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
        raise UserError(f"{what}: its shape or data_offsets are damaged. Legal: whole numbers.")
    dtype = DTYPES[check_in(f"{what}: dtype", entry.get("dtype"), DTYPES)]
    info = TensorInfo(tuple(shape), dtype)
    if span[1] - span[0] != _nbytes(info):
        raise UserError(
            f"{what}: got {span[1] - span[0]} bytes, expected {_nbytes(info)} "
            f"for {info.dtype} of shape {info.shape}."
        )
    return info, (span[0], span[1])


def _nbytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * info.dtype.itemsize


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return False
    return are_sizes(value)


def _is_text_map(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(
        isinstance(text, str) for item in value.items() for text in item
    )
