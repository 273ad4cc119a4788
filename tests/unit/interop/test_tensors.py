"""Which reader opens which file, and the shards of an index."""

import json

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsShards, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo, open_tensors
from ldm_jax.interop.torch_pickle import TorchFile

PARITY = "needs the extra [parity]: pip install torch==2.13.0"
INDEX = "model.safetensors.index.json"


def write(path, **arrays):
    infos = {key: TensorInfo(array.shape, array.dtype) for key, array in arrays.items()}
    with SafetensorsWriter(path, infos) as writer:
        for key, array in arrays.items():
            writer.write(key, array)


def write_index(folder, weight_map):
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


@pytest.fixture
def index(tmp_path):
    write(tmp_path / "1.safetensors", a=np.arange(3))
    write(tmp_path / "2.safetensors", b=np.ones((2, 2), np.float16), c=np.float32([5]))
    shards = {"c": "2.safetensors", "a": "1.safetensors", "b": "2.safetensors"}
    return write_index(tmp_path, shards)


def test_opens_safetensors_by_name(tmp_path):
    write(tmp_path / "x.SafeTensors", a=np.arange(3))
    with open_tensors(str(tmp_path / "x.SafeTensors")) as tensors:
        assert isinstance(tensors, SafetensorsFile)
        assert tensors["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_opens_torch_files_by_name(tmp_path, suffix):
    torch = pytest.importorskip("torch", reason=PARITY)
    torch.save({"a": torch.arange(3)}, tmp_path / f"x{suffix}")
    with open_tensors(tmp_path / f"x{suffix}") as tensors:
        assert isinstance(tensors, TorchFile)
        assert tensors["a"].tolist() == [0, 1, 2]


def test_shards_are_as_one(index):
    with open_tensors(index) as tensors:
        assert isinstance(tensors, SafetensorsShards)
        assert list(tensors.keys()) == ["c", "a", "b"]
        assert tensors.info("b") == TensorInfo((2, 2), np.dtype(np.float16))
        assert tensors["a"].tolist() == [0, 1, 2]
        assert tensors["c"].tolist() == [5]
    with pytest.raises(ValueError, match="closed"):
        tensors["a"]


def test_a_missing_shard_is_named(index):
    (index.parent / "2.safetensors").unlink()
    with pytest.raises(UserError, match=r"2\.safetensors: no such file"):
        open_tensors(index)


def test_a_tensor_missing_from_its_shard_is_named(index):
    write(index.parent / "2.safetensors", c=np.float32([5]))
    with pytest.raises(UserError, match=r"tensor 'b' is not in 2\.safetensors"):
        open_tensors(index)


@pytest.mark.parametrize("shard", ["../1.safetensors", "/1.safetensors", "", "passwd", ".."])
def test_shards_lie_beside_the_index(tmp_path, shard):
    with pytest.raises(UserError, match=r"got shard .* Legal: a \.safetensors file beside the"):
        open_tensors(write_index(tmp_path, {"a": shard}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": ["a"]}', "no weight_map"),
    ],
)
def test_a_damaged_index(tmp_path, text, message):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(UserError, match=message):
        open_tensors(tmp_path / INDEX)


def test_other_names_are_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        open_tensors(tmp_path / "x.npz")
    assert str(caught.value) == (
        f"{tmp_path}/x.npz: not a file of weights by its name. Legal: names that end in "
        ".safetensors, .safetensors.index.json, .ckpt, .pt, .pth, .bin."
    )


@pytest.mark.parametrize("name", ["x.safetensors", "x.safetensors.index.json", "x.ckpt"])
def test_a_missing_file_and_a_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"no such file\. Expected a file of weights"):
        open_tensors(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"a folder\. Expected a file of weights"):
        open_tensors(tmp_path / name)
