"""The weights of the FID's Inception, by PyTorch's names; torch's own files are a parity test."""

import functools
import re

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.interop.inception_weights import LEGAL, load_inception
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models.inception import Inception

# One of each kind, as pytorch-fid has it.
PUBLISHED = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_6a.branch3x3.bn.weight": (384,),
    "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
    "Mixed_7a.branch7x7x3_4.bn.bias": (192,),
    "Mixed_7b.branch3x3dbl_3a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3_2b.bn.running_mean": (384,),
    "Mixed_7c.branch_pool.bn.running_var": (192,),
    "fc.weight": (1008, 2048),
}
ARRAYS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def their_name(path):
    layer, _, array = path.replace("/", ".").rpartition(".")
    return f"{layer}.{ARRAYS.get(array, array)}"


@functools.cache
def params():
    """Returns random parameters, by path."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8)
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    return {name: rng.random(x.shape, np.float32) for name, x in flatten(shapes).items()}


def tensors():
    """Returns the same by PyTorch's names, and what else is in its file."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    theirs = {
        their_name(name): np.ascontiguousarray(x.transpose(axes[x.ndim]))
        for name, x in params().items()
    }
    theirs["fc.bias"] = np.zeros(1008, np.float32)
    theirs["Conv2d_1a_3x3.bn.num_batches_tracked"] = np.array(0)
    return theirs


def write(path, tensors):
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with SafetensorsWriter(path, infos) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return path


def refusal(path):
    """Returns the message of the UserError that loading raises, after the path."""
    with pytest.raises(UserError) as caught:
        load_inception(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_reads_names_of_pytorch_and_leaves_the_rest(tmp_path):
    theirs = tensors()
    assert {name: theirs[name].shape for name in PUBLISHED} == PUBLISHED
    path = write(tmp_path / "x.safetensors", theirs)
    for given in (path, str(path)):
        leaves = flatten(load_inception(given))
        assert leaves.keys() == params().keys()
        for name, leaf in leaves.items():
            assert type(leaf) is np.ndarray
            assert leaf.dtype == np.float32
            np.testing.assert_array_equal(leaf, params()[name])


def test_refuses_a_file_without_all_tensors(tmp_path):
    theirs = tensors()
    del theirs["Mixed_5c.branch_pool.bn.running_var"]
    del theirs["Mixed_6e.branch1x1.conv.weight"]
    got = refusal(write(tmp_path / "x.safetensors", theirs))
    first = r"2 of Inception's 471 tensors are missing, such as '(Mixed_5c|Mixed_6e)\.[\w.]+'\. "
    assert re.fullmatch(first + re.escape(LEGAL), got)


@pytest.mark.parametrize(
    ("name", "odd", "message"),
    [
        (
            "Mixed_5b.branch1x1.conv.weight",
            np.zeros((64, 192, 3, 3), np.float32),
            "'Mixed_5b.branch1x1.conv.weight': got shape (64, 192, 3, 3), expected "
            "(64, 192, 1, 1). ",
        ),
        (
            "fc.weight",
            np.zeros((1000, 2048), np.float32),
            "'fc.weight': got shape (1000, 2048), expected (1008, 2048). torchvision's "
            "Inception v3, with 1000 classes, is another network. ",
        ),
        (
            "Mixed_7c.branch1x1.bn.bias",
            np.zeros(320, np.float16),
            "'Mixed_7c.branch1x1.bn.bias': got float16, expected float32. ",
        ),
    ],
)
def test_refuses_another_tensor(name, odd, message, tmp_path):
    path = write(tmp_path / "x.safetensors", tensors() | {name: odd})
    assert refusal(path) == message + LEGAL


def test_refuses_no_file(tmp_path):
    assert refusal(tmp_path / "x.pth") == "no such file. Expected a file of weights."
