"""PyTorch's zip checkpoints (torch >= 1.6), read without torch and without running what is in them.

A checkpoint is a zip archive: `NAME/data.pkl` describes the objects, `NAME/data/KEY` holds the
bytes of a storage. (Older ones: `torch_legacy`.) A pickle is a program, which normally may call
anything. Here it can get hold of nothing but this module's stand-ins:

- `find_class` knows a closed list of names, and resolves none of them by importing;
- a stand-in that is called returns a description, or an empty object that forgets all it is given;
- every stand-in has a `__setstate__` that does nothing, or else no attribute that can be set, so
  the BUILD instruction changes nothing;
- the instructions that bypass `find_class` (EXT1, EXT2, EXT4) are refused before anything is read.
"""

import io
import lzma
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import ml_dtypes
import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.interop.tensors import (
    MAX_DIMENSIONS,
    TensorInfo,
    are_sizes,
    check_file,
    one_line,
    read_bytes,
)

_LEGAL = "Legal: tensors, numbers, text, and what PyTorch Lightning adds to them."
RESAVE = "Legal: a state_dict saved by torch.save of torch 1.6 or later, or a .safetensors file."
MAX_PICKLE = 1 << 23  # bytes; that of Stable Diffusion is below a mebibyte
_MAX_TUPLES = 40_000  # Python hashes nested tuples by recursion; checkpoints have five a tensor
_MAX_EXPANDED = 1 << 30  # bytes of a tensor that repeats elements of a smaller storage
_BAD_ZIP = (  # all that a damaged zip is known to raise
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,  # encrypted, or an unknown compression
    ValueError,
)
_BAD_PICKLE = (  # all that a damaged pickle is known to raise
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class TorchFile:
    """The tensors of a checkpoint: those under `state_dict` if it has that, otherwise its own.

    See `Tensors`. Nested dicts are not flattened, and entries that are no tensors are left out.

    Attributes:
      numbers: the plain numbers beside them, such as Lightning's `global_step`.
    """

    numbers: dict[str, int | float]

    def __init__(self, path: Path):
        self.path = Path(path)
        check_file(self.path)
        self._open()
        try:
            self._read_objects(self._read_top())
        except UserError as error:
            self.close()
            raise UserError(f"{self.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    def keys(self) -> Iterable[str]:
        """Returns the names, in the order of the file."""
        return self._tensors.keys()

    def info(self, key: str) -> TensorInfo:
        """Returns shape and type without reading the values."""
        tensor = self._tensors[key]
        return TensorInfo(tensor.size, tensor.storage.dtype)

    def __getitem__(self, key: str) -> np.ndarray:
        storage, offset, size, stride = self._tensors[key]
        itemsize = storage.dtype.itemsize
        try:
            count = _extent(size, stride) * itemsize
            data = self._read_storage(storage.key, offset * itemsize, count)
        except _BAD_ZIP as error:
            raise UserError(f"{self.path}: {key!r} is damaged: {one_line(error)}.") from error
        strides = [step * itemsize for step in stride]
        return np.asarray(np.ndarray(size, storage.dtype, data, strides=strides), order="C")

    def close(self) -> None:
        """Closes the file."""
        self._zip.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open(self) -> None:
        self._zip = _open_zip(self.path)

    def _read_top(self) -> Any:
        """Returns the object that the file was saved from, with `_Tensor`s as its tensors."""
        self._root = self._find_root()
        return unpickle(self._read_member(f"{self._root}data.pkl", MAX_PICKLE))[0]

    def _read_storage(self, key: str, begin: int, count: int) -> np.ndarray:
        """Returns bytes of a storage, uint8 [count]."""
        with self._zip.open(f"{self._root}data/{key}") as file:
            file.seek(begin)
            return read_bytes(cast(zipfile.ZipExtFile, file), count)

    def _find_storage(self, key: str) -> tuple[str, int]:
        """Returns the name of a storage in the file, and its size in bytes."""
        name = f"{self._root}data/{key}"
        if name not in self._zip.NameToInfo:
            raise UserError(f"its data, {name!r}, is missing from the archive.")
        return name, self._zip.NameToInfo[name].file_size

    def _find_root(self) -> str:
        """Returns the archive's folder, with its slash, after checking what lies in it."""
        names = self._zip.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        roots = [root for root in roots if root.count("/") == 1]
        if len(roots) != 1:
            raise UserError(f"a zip without one data.pkl, so no PyTorch checkpoint. {RESAVE}")
        (root,) = roots
        if f"{root}constants.pkl" in names or any(n.startswith(f"{root}code/") for n in names):
            raise UserError(f"a TorchScript program rather than weights. {RESAVE}")
        if f"{root}byteorder" in names:
            order = self._read_member(f"{root}byteorder", 16)
            if order != b"little":
                raise UserError(f"got byte order {order!r}. Legal: little.")
        return root

    def _read_member(self, name: str, limit: int) -> bytes:
        size = self._zip.getinfo(name).file_size
        if size > limit:
            raise UserError(f"{name} has {size} bytes. Legal: at most {limit}.")
        try:
            return self._zip.read(name)
        except _BAD_ZIP as error:
            raise UserError(f"{name} is damaged: {one_line(error)}.") from error

    def _read_objects(self, top: Any) -> None:
        if not isinstance(top, dict):
            raise UserError(f"holds no dict but something else. {RESAVE}")
        named = top.get("state_dict")
        named = named if isinstance(named, dict) else top
        self._tensors: dict[str, _Tensor] = {
            key: value
            for key, value in named.items()
            if isinstance(key, str) and isinstance(value, _Tensor)
        }
        self.numbers = {
            key: value
            for key, value in top.items()
            if isinstance(key, str) and type(value) in (int, float)
        }
        if not self._tensors:
            found = ", ".join([repr(key) for key in top if isinstance(key, str)][:10])
            raise UserError(
                f"no tensors, neither under 'state_dict' nor beside it; got {found or 'nothing'}."
            )
        for key, tensor in self._tensors.items():
            self._check(key, tensor)

    def _check(self, key: str, tensor: "_Tensor") -> None:
        """Raises UserError unless the tensor lies in its storage, and that in the archive."""
        storage, offset, size, stride = tensor
        if not (_are_sizes((offset,)) and _are_sizes(size) and _are_sizes(stride)):
            raise UserError(f"{key!r}: its offset, size or stride is no whole number from 0 up.")
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise UserError(f"{key!r}: got {len(size)} sizes and {len(stride)} strides.")
        if offset + _extent(size, stride) > storage.numel:
            raise UserError(
                f"{key!r}: offset {offset}, size {size} and stride {stride} reach beyond its "
                f"storage of {storage.numel} elements."
            )
        held = storage.numel * storage.dtype.itemsize
        nbytes = math.prod(size) * storage.dtype.itemsize
        if nbytes > max(held, _MAX_EXPANDED):
            raise UserError(f"{key!r}: got {nbytes} bytes out of a storage of {held}.")
        try:
            name, got = self._find_storage(storage.key)
        except UserError as error:
            raise UserError(f"{key!r}: {error}") from error
        if got != held:
            raise UserError(f"{key!r}: its data, {name!r}, got {got} bytes, expected {held}.")


class _Storage(NamedTuple):
    """A block of memory. As a NamedTuple it has no attribute that BUILD could set."""

    key: str
    dtype: np.dtype
    numel: int


class _Tensor(NamedTuple):
    """A view of a storage, counted in elements. Its numbers are as the file has them."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Inert:
    """What a pickle can get hold of: state and items given to it or its class go nowhere."""

    __slots__ = ()

    @staticmethod
    def __setstate__(*_: Any) -> None:
        """Does nothing; being static, it does so for BUILD on the class as well."""

    append = extend = add = __setstate__

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Call(_Inert):
    """Stands for a function of torch: calls ours in its place."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Type(_Inert):
    """Stands for a type of torch, such as `torch.float16` or `torch.HalfStorage`."""

    __slots__ = ("dtype", "is_storage")

    def __init__(self, dtype: Any, is_storage: bool):
        self.dtype, self.is_storage = np.dtype(dtype), is_storage


class _Stub(_Inert):
    """Stands for what we have no use for: whatever it is called with, an empty object."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Stub":
        return super().__new__(cls)


class _Dict(dict):
    """Stands for OrderedDict; a module's state_dict is one with `_metadata` as its state."""

    __slots__ = ()

    @staticmethod
    def __setstate__(*_: Any) -> None:
        """Does nothing."""


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Tensor:
    """Returns a view. `rest` is requires_grad, hooks and, for lazy views, metadata."""
    if not isinstance(storage, _Storage):
        raise UserError("a tensor without a storage; the file is damaged.")
    if rest[2:] and rest[2]:
        raise UserError("a conjugated or negated view, of which the file holds the original only.")
    return _Tensor(storage, offset, size, stride)


def _rebuild_typed_tensor(storage: Any, *args: Any) -> _Tensor:
    """Returns a view of an untyped storage; `args` has the type after the hooks."""
    dtype = args[5] if len(args) > 5 else None
    if not (isinstance(storage, _Storage) and isinstance(dtype, _Type)):
        raise UserError("a tensor without a storage or a type; the file is damaged.")
    nbytes = storage.numel * storage.dtype.itemsize
    if nbytes % dtype.dtype.itemsize:
        raise UserError(f"a storage of {nbytes} bytes holds no {dtype.dtype}.")
    storage = _Storage(storage.key, dtype.dtype, nbytes // dtype.dtype.itemsize)
    return _rebuild_tensor(storage, *args[:5], *args[6:])


_TYPES = {
    "float64": ("Double", np.float64),
    "float32": ("Float", np.float32),
    "float16": ("Half", np.float16),
    "bfloat16": ("BFloat16", ml_dtypes.bfloat16),
    "float8_e4m3fn": (None, ml_dtypes.float8_e4m3fn),
    "float8_e5m2": (None, ml_dtypes.float8_e5m2),
    "complex64": ("ComplexFloat", np.complex64),
    "complex128": ("ComplexDouble", np.complex128),
    "int64": ("Long", np.int64),
    "int32": ("Int", np.int32),
    "int16": ("Short", np.int16),
    "int8": ("Char", np.int8),
    "uint64": (None, np.uint64),
    "uint32": (None, np.uint32),
    "uint16": (None, np.uint16),
    "uint8": ("Byte", np.uint8),
    "bool": ("Bool", np.bool_),
}
_GLOBALS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _Call(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Call(_rebuild_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(lambda data, requires_grad, hooks: data),
    ("torch", "Size"): _Call(lambda sizes: tuple(sizes)),
    ("torch.storage", "UntypedStorage"): _Type(np.uint8, True),
    ("collections", "OrderedDict"): _Call(lambda pairs=(): _Dict(pairs)),
    **{("torch", name): _Type(dtype, False) for name, (_, dtype) in _TYPES.items()},
    **{("torch", f"{s}Storage"): _Type(dtype, True) for s, dtype in _TYPES.values() if s},
    # Training notes beside the weights: never interpreted.
    **{(f"numpy.{c}.multiarray", "scalar"): _Stub for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _Stub for c in ("core", "_core")},
    **{("numpy", name): _Stub for name in ("dtype", "ndarray")},
    **{(module, "set"): _Stub for module in ("builtins", "__builtin__")},
    ("_codecs", "encode"): _Stub,
}
_STUBBED = ("pytorch_lightning", "lightning")  # and everything below


class _Unpickler(pickle.Unpickler):
    """Resolves names and storages to this module's stand-ins, and to nothing else.

    Attributes:
      storages: those that it has met, by key.
    """

    def __init__(self, data: bytes, is_legacy: bool):
        super().__init__(io.BytesIO(data))
        self._is_legacy = is_legacy
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in; `name` may be dotted (protocol 4), and is never followed."""
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module.split(".")[0] in _STUBBED:
            return _Stub
        raise UserError(
            f"refers to {one_line(f'{module}.{name}')}, which a checkpoint of weights has no use "
            f"for; it may be malicious. {_LEGAL}"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that a tuple ('storage', type, key, location, numel) names."""
        # Before torch 1.6, one more says of which storage this one is a view: None.
        match pid[:-1] if self._is_legacy and pid[5:] == (None,) else pid:
            case ("storage", _Type(is_storage=True) as kind, str() as key, str(), int() as numel):
                if _are_sizes((numel,)):
                    storage = _Storage(key, kind.dtype, numel)
                    self.storages.setdefault(key, storage)
                    return storage
        raise UserError("refers to data in another form than PyTorch's; it may be malicious.")


def unpickle(data: bytes, is_legacy: bool = False) -> tuple[Any, dict[str, _Storage]]:
    """Returns the object that `data` describes, and the storages that it refers to, by key.

    The object is made of built-in types and stand-ins.

    Args:
      data: of one pickle.
      is_legacy: it is from before torch 1.6.
    """
    tuples = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            tuples += "TUPLE" in opcode.name
            if tuples > _MAX_TUPLES:
                raise UserError("nests far more than PyTorch does; it may be malicious.")
            if "PUT" in opcode.name and cast(int, argument) > len(data):
                raise UserError("asks for far more memory than it fills; it may be malicious.")
            # These look in a cache of the process before they ask find_class.
            if opcode.name in ("EXT1", "EXT2", "EXT4"):
                raise UserError(f"uses {opcode.name}, which PyTorch does not; it may be malicious.")
        unpickler = _Unpickler(data, is_legacy)
        return unpickler.load(), unpickler.storages
    except UserError:
        raise
    except _BAD_PICKLE as error:
        raise UserError(f"its data.pkl is damaged: {one_line(error)}. {RESAVE}") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _BAD_ZIP as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:2] == b"PK":
            raise UserError(f"{path}: truncated or damaged zip; fetch it again.") from error
        if head[:1] == b"\x80":
            raise UserError(
                f"{path}: in the format from before torch 1.6. Legal: the same, loaded and saved "
                "anew by a current torch, or as .safetensors."
            ) from error
        raise UserError(f"{path}: no PyTorch file: got no zip archive. {RESAVE}") from error


def _are_sizes(value: Any) -> bool:
    return type(value) is tuple and are_sizes(value)


def _extent(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Returns the number of storage elements from a view's first to its last."""
    if 0 in size:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
