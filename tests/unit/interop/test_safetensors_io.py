"""Safetensors files, against the format's own library and against damaged bytes."""

import json

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.interop.safetensors_io import DTYPES, SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo

PARITY = "needs the extra [parity]: pip install torch==2.13.0"
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
VALUES = (-3.5, 0, 1, 2, 100, 0.25)


def torch_tensors(torch):
    """Returns tensors of every type and of odd shapes, made by torch."""
    values = torch.tensor(VALUES, dtype=torch.float64)
    tensors = {}
    for name, torch_name in TORCH_NAMES.items():
        source = values.abs() if name[0] in "UB" else values
        tensors[f"of.{name}"] = source.to(getattr(torch, torch_name)).reshape(2, 3)
    tensors["scalar"] = torch.tensor(7.5)
    tensors["empty"] = torch.zeros(0, 3, dtype=torch.float16)
    tensors["odd"] = torch.arange(3, dtype=torch.uint8)
    return tensors


def raw(torch, tensor):
    """Returns a torch tensor's bytes."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def raw_file(path, header, data=b""):
    """Writes a file from a header, which may be anything, and its data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def test_reads_what_the_official_library_wrote(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    official = pytest.importorskip("safetensors.torch", reason=PARITY)
    tensors, path = torch_tensors(torch), tmp_path / "official.safetensors"
    official.save_file(tensors, path, metadata={"format": "pt", "ü": "x"})
    with SafetensorsFile(path) as file:
        assert file.metadata == {"format": "pt", "ü": "x"}
        assert set(file.keys()) == set(tensors)
        for key, tensor in tensors.items():
            array = file[key]
            assert file.info(key) == (tuple(tensor.shape), array.dtype)
            assert array.shape == tuple(tensor.shape)
            assert array.tobytes() == raw(torch, tensor)
            if array.dtype != bool:
                assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")


def test_writes_what_the_official_library_reads(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    official = pytest.importorskip("safetensors.torch", reason=PARITY)
    expected, path = torch_tensors(torch), tmp_path / "ours.safetensors"
    arrays = {}
    for key, tensor in expected.items():
        dtype = DTYPES[key[3:]] if key.startswith("of.") else np.dtype(str(tensor.dtype)[6:])
        arrays[key] = np.frombuffer(raw(torch, tensor), dtype).reshape(tensor.shape)
    infos = {key: TensorInfo(array.shape, array.dtype) for key, array in arrays.items()}
    with SafetensorsWriter(path, infos, {"format": "pt"}) as writer:
        for key in reversed(arrays):
            writer.write(key, arrays[key])
    assert not list(tmp_path.glob("*.tmp"))
    loaded = official.load_file(path)
    assert set(loaded) == set(expected)
    for key, tensor in expected.items():
        assert loaded[key].dtype == tensor.dtype
        assert loaded[key].shape == tensor.shape
        assert raw(torch, loaded[key]) == raw(torch, tensor)
    with pytest.importorskip("safetensors").safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_lays_out_as_the_official_library_does(tmp_path):
    official = pytest.importorskip("safetensors.numpy", reason=PARITY)
    arrays = {
        "b": np.arange(3, dtype=np.uint8),
        "a": np.ones((2, 2), np.float16),
        "d": np.ones(3, np.float32),
        "c": np.ones((), np.float64),
        "e": np.zeros((0, 2), np.float32),
    }
    official.save_file(arrays, tmp_path / "official.safetensors")
    infos = {key: TensorInfo(array.shape, array.dtype) for key, array in arrays.items()}
    with SafetensorsWriter(tmp_path / "ours.safetensors", infos) as writer:
        for key, array in arrays.items():
            writer.write(key, array)
    official_bytes = (tmp_path / "official.safetensors").read_bytes()
    assert (tmp_path / "ours.safetensors").read_bytes() == official_bytes


def test_reads_bytes_laid_out_by_hand(tmp_path):
    header = {"b": entry("BF16", (2,), (4, 8)), "a": entry("I16", (1, 2), (0, 4))}
    path = raw_file(tmp_path / "x.safetensors", header, bytes.fromhex("0100feff803f00c0"))
    with SafetensorsFile(path) as file:
        assert list(file.keys()) == ["b", "a"]
        assert file.metadata == {}
        assert file.info("b") == TensorInfo((2,), np.dtype(ml_dtypes.bfloat16))
        assert file["b"].astype(float).tolist() == [1, -2]
        assert file["a"].tolist() == [[1, -2]]
        file["a"][:] = 0  # each reading is the caller's own
        assert file["a"].tolist() == [[1, -2]]


def test_a_strided_array_is_written_in_order(tmp_path):
    path, array = tmp_path / "x.safetensors", np.arange(6, dtype=np.int32).reshape(2, 3)
    with SafetensorsWriter(path, {"t": TensorInfo((3, 2), np.dtype(np.int32))}) as writer:
        writer.write("t", array.T)
    assert path.read_bytes()[-24:] == np.array([0, 3, 1, 4, 2, 5], "<i4").tobytes()


SMALL = {"t": TensorInfo((2,), np.dtype(np.float32)), "u": TensorInfo((), np.dtype(np.int8))}


@pytest.mark.parametrize(
    ("key", "array", "error", "message"),
    [
        ("t", np.zeros(3, np.float32), UserError, "'t': got shape (3,), expected (2,)"),
        ("t", np.zeros(2), UserError, "'t': got float64, expected float32"),
        ("x", np.zeros(2), KeyError, "x"),
        ("t", np.zeros(2, np.float32), RuntimeError, "never written: u"),
    ],
)
def test_a_failed_writing_leaves_the_former_file(tmp_path, key, array, error, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"former")
    with pytest.raises(error) as caught, SafetensorsWriter(path, SMALL) as writer:
        writer.write(key, array)
    assert message in str(caught.value)
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_each_tensor_is_written_once(tmp_path):
    infos = {"u": TensorInfo((), np.dtype(np.int8))}
    with SafetensorsWriter(tmp_path / "x.safetensors", infos) as writer:
        writer.write("u", np.int8(1))
        with pytest.raises(RuntimeError, match="'u' is written already"):
            writer.write("u", np.int8(2))
    assert (tmp_path / "x.safetensors").read_bytes()[-1:] == b"\x01"


@pytest.mark.parametrize(
    ("infos", "metadata", "message"),
    [
        ({"t": TensorInfo((), np.dtype(np.complex64))}, {}, "type of 't': got dtype('complex64')"),
        ({"__metadata__": SMALL["t"]}, {}, "__metadata__ is no legal name"),
        (SMALL, {"steps": 3}, "Legal: text by name"),
    ],
)
def test_refuses_what_the_format_cannot_hold(tmp_path, infos, metadata, message):
    with pytest.raises(UserError) as caught:
        SafetensorsWriter(tmp_path / "x.safetensors", infos, metadata)
    assert message in str(caught.value)


def test_the_folder_must_exist(tmp_path):
    with (
        pytest.raises(UserError, match="its folder does not exist"),
        SafetensorsWriter(tmp_path / "none" / "x.safetensors", SMALL),
    ):
        pass


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "the header is no JSON"),
        (b"\xff\xfe", b"", "the header is no JSON"),
        (b"[" * 100_000, b"", "the header is no JSON"),
        (b"[]", b"", "no JSON object"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ is damaged"),
        ({"t": 3}, b"", "'t': its shape or data_offsets are damaged"),
        ({"t": {"dtype": "F32"}}, b"", "shape or data_offsets are damaged"),
        ({"t": entry(shape=(-2,))}, bytes(8), "shape or data_offsets are damaged"),
        ({"t": entry(shape=(2.0,))}, bytes(8), "shape or data_offsets are damaged"),
        ({"t": entry(shape=[0] * 65, span=(0, 0))}, b"", "shape or data_offsets are damaged"),
        ({"t": entry(span=(8,))}, bytes(8), "shape or data_offsets are damaged"),
        (
            {"t": entry(dtype="F4")},
            bytes(8),
            "'t': dtype: got 'F4'; did you mean 'F64'? Legal: F64",
        ),
        ({"t": entry(dtype=[1])}, bytes(8), "'t': dtype: got [1]"),
        ({"t": entry(shape=(3,))}, bytes(8), "got 8 bytes, expected 12 for float32 of shape (3,)"),
        ({"t": entry(shape=[1 << 62] * 60)}, bytes(8), "got 8 bytes, expected"),
        ({"t": entry(span=(8, 0))}, bytes(8), "got -8 bytes"),
        ({"t": entry()}, bytes(7), "fill 7 bytes of data without hole or overlap"),
        ({"t": entry()}, bytes(9), "do not from byte 8 on"),
        ({"t": entry(span=(8, 16))}, bytes(16), "do not from byte 0 on"),
        ({"t": entry(), "u": entry()}, bytes(8), "do not from byte 8 on"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, header, data, message):
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(UserError) as caught:
        SafetensorsFile(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x02", b"\xff" * 8 + b"{}", b"version https://git-lfs"])
def test_another_kind_of_file_is_one_line(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"no safetensors file, or truncated: \d+ bytes with"):
        SafetensorsFile(path)


def test_a_file_cut_short_while_open(tmp_path):
    path = raw_file(tmp_path / "x.safetensors", {"t": entry()}, bytes(8))
    with SafetensorsFile(path) as file:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="truncated in tensor 't': 1 of 8 bytes are missing"):
            file["t"]
