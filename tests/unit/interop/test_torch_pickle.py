"""PyTorch checkpoints, against torch itself and against hostile files made by hand."""

import collections
import contextlib
import copyreg
import io
import os
import pickle
import sys
import types
import warnings
import zipfile

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.interop.torch_pickle import TorchFile

PARITY = "needs the extra [parity]: pip install torch==2.13.0"


# Hand-made checkpoints: the instructions of a pickle, one after the other.


def plain(value):
    """Returns the instructions that push a value of built-in types."""
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    """Returns GLOBAL, which pushes what `find_class` finds."""
    return f"c{module}\n{attribute}\n".encode()


def dotted(module, attribute):
    """Returns STACK_GLOBAL, whose attribute may be a path."""
    return plain(module) + plain(attribute) + b"\x93"


def call(function, *args):
    """Returns REDUCE, which calls."""
    return function + b"(" + b"".join(args) + b"tR"


def storage(key="0", numel=4, kind=("torch", "FloatStorage")):
    parts = (plain("storage"), name(*kind), plain(key), plain("cpu"), plain(numel))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(offset=0, size=(2, 2), stride=(2, 1), of=None):
    of = storage() if of is None else of
    numbers = (plain(offset), plain(size), plain(stride), plain(False), plain(None))
    return call(name("torch._utils", "_rebuild_tensor_v2"), of, *numbers)


def dict_of(**items):
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


FOUR = np.array([1, 2, 3, 4], "<f4")


def archive(path, code, protocol=2, folder="archive", compress=zipfile.ZIP_STORED, **members):
    """Writes a checkpoint from the instructions of its pickle."""
    members = {"data.pkl": b"\x80" + bytes([protocol]) + code + b".", "data/0": FOUR.tobytes()} | {
        key.replace("__", "/"): value for key, value in members.items()
    }
    with zipfile.ZipFile(path, "w", compress) as file:
        for key, value in members.items():
            if value is not None:
                file.writestr(f"{folder}/{key}" if folder else key, value)
    return path


def refusal(path):
    """Returns the message of the UserError that opening raises."""
    with pytest.raises(UserError) as caught:
        TorchFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 1000 + len(str(path))
    return message


@pytest.mark.parametrize("folder", ["archive", "my model", "v1.4"])
@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_a_file_made_by_hand(tmp_path, folder, compress):
    code = dict_of(
        w=tensor(),
        t=tensor(stride=(1, 2)),
        tail=tensor(offset=2, size=(2,), stride=(1,)),
        every_other=tensor(offset=1, size=(2,), stride=(2,)),
        scalar=tensor(offset=3, size=(), stride=()),
        empty=tensor(offset=4, size=(0, 3), stride=(3, 1)),
        repeated=tensor(size=(2, 3), stride=(1, 0)),
        step=plain(7),
        rate=plain(0.5),
        on=plain(True),
        note=plain("x"),
    )
    path = archive(tmp_path / "x.pt", code, folder=folder, compress=compress, byteorder=b"little")
    with TorchFile(path) as file:
        arrays = {key: file[key] for key in list(file.keys())}
        assert file.info("t") == TensorInfo((2, 2), np.dtype(np.float32))
        assert file.info("scalar").shape == arrays["scalar"].shape == ()
        assert arrays["empty"].shape == (0, 3)
        assert file.numbers == {"step": 7, "rate": 0.5}
    assert {key: array.tolist() for key, array in arrays.items()} == {
        "w": [[1, 2], [3, 4]],
        "t": [[1, 3], [2, 4]],
        "tail": [3, 4],
        "every_other": [2, 4],
        "scalar": 4,
        "empty": [],
        "repeated": [[1, 1, 1], [2, 2, 2]],
    }
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays.values())


# What torch writes.


def assert_same(torch, array, expected):
    """Asserts that an array has a torch tensor's shape, type and bits."""
    assert array.shape == tuple(expected.shape)
    assert str(array.dtype) == str(expected.dtype).removeprefix("torch.")
    bits = expected.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    assert array.tobytes() == bits.tobytes()
    assert array.flags.c_contiguous


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_reads_what_torch_saved(tmp_path, protocol):
    torch = pytest.importorskip("torch", reason=PARITY)
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) - 5.5
    float_types = ("float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64")
    other_types = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
    tensors = collections.OrderedDict(
        base=base,
        shares=base[1, :, 1:3],
        transposed=base.permute(2, 0, 1),
        parameter=torch.nn.Parameter(base[0]),
        scalar=torch.tensor(-1.5),
        empty=torch.zeros(0, 3),
        expanded=torch.arange(3).expand(2, 3),
        **{name: base.to(getattr(torch, name)) for name in float_types},
        **{name: base.abs().to(getattr(torch, name)) for name in other_types},
    )
    path = tmp_path / "x.pt"
    torch.save(tensors, path, pickle_protocol=protocol)
    with TorchFile(path) as file:
        assert list(file.keys()) == list(tensors)
        for key, expected in tensors.items():
            assert_same(torch, file[key], expected)
            assert file.info(key) == (file[key].shape, file[key].dtype)
        assert file.numbers == {}


def test_reads_a_modules_state_dict(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    torch.save(module.state_dict(), tmp_path / "x.pth")
    with TorchFile(tmp_path / "x.pth") as file:
        assert list(file.keys()) == list(module.state_dict())
        for key, expected in module.state_dict().items():
            assert_same(torch, file[key], expected)


@pytest.fixture
def lightning(monkeypatch):
    """A class that pickles as Lightning's, in a module that exists only during the test."""
    path = "pytorch_lightning.callbacks.model_checkpoint"
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", path]
    for module in names:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    callback = type("ModelCheckpoint", (), {"__module__": path})
    settings = type("AttributeDict", (dict,), {"__module__": path})
    sys.modules[path].ModelCheckpoint = callback
    sys.modules[path].AttributeDict = settings
    return types.SimpleNamespace(callback=callback, settings=settings)


@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_a_lightning_checkpoint(tmp_path, lightning, protocol):
    torch = pytest.importorskip("torch", reason=PARITY)
    weights, callback = {"model.w": torch.randn(2, 3).half()}, lightning.callback()
    callback.best, callback.self = np.float64(0.5), callback
    checkpoint = {
        "epoch": 3,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": weights,
        "lr": 1e-4,
        "beside": torch.ones(1),
        "callbacks": {lightning.callback: {"best": torch.tensor(1.0), "score": np.float32(2)}},
        "callback": callback,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "hyper_parameters": lightning.settings(a=1, b={"c": np.arange(3)}),
        "seen": {1, 2},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    torch.save(checkpoint, tmp_path / "x.ckpt", pickle_protocol=protocol)
    with TorchFile(tmp_path / "x.ckpt") as file:
        assert list(file.keys()) == ["model.w"]
        assert_same(torch, file["model.w"], weights["model.w"])
        assert file.numbers == {"epoch": 3, "global_step": 470_000, "lr": 1e-4}


def test_a_file_from_before_torch_1_6(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert "in the format from before torch 1.6. Legal: the same, loaded and saved" in refusal(path)


def test_a_torchscript_program(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "x.pt")
    assert "a TorchScript program rather than weights. Legal: a state_dict" in refusal(
        tmp_path / "x.pt"
    )


def test_a_negated_view_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    view = torch.tensor([1 + 2j]).conj().imag
    assert view.is_neg()
    torch.save({"a": view}, tmp_path / "x.pt")
    assert "a conjugated or negated view" in refusal(tmp_path / "x.pt")


def test_a_whole_module_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pt")
    assert "refers to torch.nn.modules.linear.Linear, which" in refusal(tmp_path / "x.pt")


# Hostile files. Each attack would leave a file `marker`.


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def attacks(marker):
    touch = plain(f"touch '{marker}'")
    system = name("os", "system")
    source = plain(f"open({str(marker)!r}, 'w').close()")
    return {
        "os.system": call(system, touch),
        "builtins.eval": call(name("builtins", "eval"), source),
        "__builtin__.eval": call(name("__builtin__", "eval"), source),
        "builtins.getattr": call(call(name("builtins", "getattr"), name("os", "x"), plain("y"))),
        "os.path.os.system": call(dotted("os", "path.os.system"), touch),
        "torch._utils.os.system": call(dotted("torch", "_utils.os.system"), touch),
        "torch._utils._rebuild_tensor_v2.__globals__": dotted(
            "torch._utils", "_rebuild_tensor_v2.__globals__"
        ),
        "collections.OrderedDict.__init__": dotted("collections", "OrderedDict.__init__"),
        "collections.abc.os": name("collections.abc", "os"),
        "torchx.FloatStorage": name("torchx", "FloatStorage"),
        "torch.load": name("torch", "load"),
        "lightningx.y": name("lightningx", "y"),
        "os.popen": b"(" + touch + b"ios\npopen\n",  # INST
        "posix.system": b"(" + name("posix", "system") + touch + b"o",  # OBJ
        "pickle.loads": call(name("pickle", "loads"), plain(b"x")),
        "ldm_jax.interop.torch_pickle._Stub": name("ldm_jax.interop.torch_pickle", "_Stub"),
        "os.a\\nb": dotted("os", "a\nb"),
    }


ATTACKS = list(attacks(""))


@pytest.mark.parametrize("attack", ATTACKS)
def test_names_beyond_the_list_are_refused(tmp_path, marker, attack):
    code = dict_of(w=tensor(), x=attacks(marker)[attack])
    message = refusal(archive(tmp_path / "x.ckpt", code, protocol=4))
    assert message == (
        f"{tmp_path}/x.ckpt: refers to {attack}, which a checkpoint of weights has no use for; it "
        "may be malicious. Legal: tensors, numbers, text, and what PyTorch Lightning adds to them."
    )
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["os.system", "builtins.eval", "os.path.os.system"])
def test_the_attacks_are_real(marker, attack):
    pickle.loads(b"\x80\x04" + attacks(marker)[attack] + b".")
    assert marker.exists()


def test_lightnings_names_are_never_followed(tmp_path, lightning, marker):
    """Called, instantiated, given state and items: no stub looks at what it is named after."""

    def fire(*args):
        marker.touch()

    sys.modules["pytorch_lightning"].fire = fire
    sys.modules["pytorch_lightning"].os = os
    lightning.callback.__setstate__ = fire
    touch = plain(f"touch '{marker}'")
    module = lightning.callback.__module__
    callback = name(module, "ModelCheckpoint")
    made = callback + b")\x81"  # NEWOBJ
    code = dict_of(
        w=tensor(),
        called=call(name("pytorch_lightning", "fire"), touch),
        followed=call(dotted("pytorch_lightning", "os.system"), touch),
        below=call(name("lightning.os", "system"), touch),
        stateful=made + dict_of(a=touch, __class__=touch) + b"b",
        instance=b"(" + touch + f"i{module}\nModelCheckpoint\n".encode(),
        keyword=callback + b")" + dict_of(a=touch) + b"\x92",  # NEWOBJ_EX
        appended=made + b"(" + touch + b"e",
        filled=made + b"(" + touch + touch + b"u",
        encoded=call(name("_codecs", "encode"), touch, plain("latin1")),
    )
    with TorchFile(archive(tmp_path / "x.ckpt", code, protocol=4)) as file:
        assert list(file.keys()) == ["w"]
    assert not marker.exists()


BUILT = [
    name("torch._utils", "_rebuild_tensor_v2"),
    name("torch", "FloatStorage"),
    name("torch", "Size"),
    name("collections", "OrderedDict"),
    call(name("collections", "OrderedDict")),
    name("pytorch_lightning", "x"),
    name("pytorch_lightning", "x") + b")\x81",
    name("numpy", "dtype"),
    name("builtins", "set"),
    tensor(),
    storage(),
    plain({}),
    plain([]),
]
STATES = [
    plain({"_function": 1, "dtype": 1, "__class__": 1, "pwned": 1}),
    plain((None, {"_function": 1, "dtype": 1, "size": 1, "key": 1, "pwned": 1})),
    plain((None, {"__call__": 1, "__setstate__": 1, "__new__": 1, "__init__": 1})),
]


@pytest.mark.parametrize("state", range(len(STATES)))
@pytest.mark.parametrize("target", range(len(BUILT)))
def test_build_changes_nothing(tmp_path, target, state):
    attack = archive(tmp_path / "x.pt", dict_of(x=BUILT[target] + STATES[state] + b"b", w=tensor()))
    with contextlib.suppress(UserError):  # either outcome is right
        TorchFile(attack).close()
    assert not hasattr(collections.OrderedDict, "pwned")
    assert not hasattr(np.dtype, "pwned")
    stubs = dict_of(a=BUILT[6], b=call(BUILT[3]), c=plain(1), w=tensor())
    with TorchFile(archive(tmp_path / "y.pt", stubs)) as file:
        assert file.info("w") == TensorInfo((2, 2), np.dtype(np.float32))
        assert file["w"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("code", [b"\x82\x7b", b"\x83\x7b\x00", b"\x84\x7b\x00\x00\x00"])
def test_extension_codes_are_refused(tmp_path, marker, code):
    copyreg.add_extension("os", "system", 0x7B)
    try:
        attack = call(code, plain(f"touch '{marker}'"))
        pickle.loads(b"\x80\x02" + attack + b".")
        assert marker.exists()  # and now os.system is in the process's cache
        marker.unlink()
        message = refusal(archive(tmp_path / "x.pt", dict_of(w=tensor(), x=attack)))
        assert "uses EXT" in message
        assert not marker.exists()
    finally:
        copyreg.remove_extension("os", "system", 0x7B)


@pytest.mark.parametrize(
    "pid",
    [
        plain("0"),
        plain(None),
        plain(("storage", "FloatStorage", "0", "cpu", 4)),
        b"(" + plain("module") + storage()[10:-2] + b"t",
        b"(" + plain("storage") + name("torch", "float32") + plain("0") + plain("cpu") + b"K\x04t",
        b"(" + plain("storage") + name("pytorch_lightning", "x") + plain("0") * 2 + b"K\x04t",
        storage(numel=-1)[:-1],
        storage(numel="4")[:-1],
        storage(numel=1 << 70)[:-1],
        storage(key=0)[:-1],
        storage()[:-2] + plain(None) + b"t",
    ],
)
def test_references_of_another_form_are_refused(tmp_path, pid):
    message = refusal(archive(tmp_path / "x.pt", dict_of(w=tensor(of=pid + b"Q"))))
    assert "in another form than PyTorch's" in message or "data.pkl is damaged" in message


def test_a_textual_reference_is_refused(tmp_path):
    message = refusal(archive(tmp_path / "x.pt", dict_of(w=b"P0\n")))
    assert "in another form than PyTorch's" in message


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (tensor(offset=1), "'w': offset 1, size (2, 2) and stride (2, 1) reach beyond its storage"),
        (tensor(size=(3, 2)), "reach beyond its storage of 4 elements"),
        (tensor(stride=(3, 1)), "reach beyond its storage of 4 elements"),
        (tensor(offset=5, size=(0,), stride=(1,)), "reach beyond its storage of 4 elements"),
        (tensor(size=(1 << 62, 1 << 62)), "reach beyond its storage"),
        (tensor(size=(1 << 40,), stride=(0,)), "got 4398046511104 bytes out of a storage of 16"),
        (tensor(offset=-1), "no whole number from 0 up"),
        (tensor(size=(-2, 2)), "no whole number from 0 up"),
        (tensor(stride=(-2, 1)), "no whole number from 0 up"),
        (tensor(offset="0"), "no whole number from 0 up"),
        (tensor(offset=10**5000), "no whole number from 0 up"),
        (tensor(size=[2, 2]), "no whole number from 0 up"),
        (tensor(size=(2.0, 2)), "no whole number from 0 up"),
        (tensor(size=(4,)), "got 1 sizes and 2 strides"),
        (tensor(size=(1,) * 65, stride=(1,) * 65), "got 65 sizes and 65 strides"),
        (tensor(of=storage(numel=5)), "'archive/data/0', got 16 bytes, expected 20"),
        (tensor(of=storage(kind=("torch", "DoubleStorage"))), "got 16 bytes, expected 32"),
        (tensor(of=storage(key="1")), "'archive/data/1', is missing from the archive"),
        (tensor(of=storage(key="../../etc/passwd")), "is missing from the archive"),
        (tensor(of=plain("0")), "a tensor without a storage"),
        (call(name("torch._utils", "_rebuild_tensor_v2"), storage()), "data.pkl is damaged"),
        (call(name("torch._utils", "_rebuild_tensor_v3"), storage()), "without a storage or a"),
        (
            call(
                name("torch._utils", "_rebuild_tensor_v3"),
                storage(numel=3, kind=("torch.storage", "UntypedStorage")),
                *map(plain, (0, (1,), (1,), False, None)),
                name("torch", "int16"),
            ),
            "a storage of 3 bytes holds no int16",
        ),
    ],
)
def test_tensors_lie_in_their_storage(tmp_path, hostile, message):
    assert message in refusal(archive(tmp_path / "x.pt", dict_of(w=hostile)))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"", "data.pkl is damaged"),
        (b"\x00", "data.pkl is damaged"),
        (b"X\xff\xff\xff\x7fx", "data.pkl is damaged"),
        (b"K\x01r\xff\xff\xff\xff", "far more memory than it fills"),
        (b"K\x01b", "data.pkl is damaged"),
        (plain([1]) + b"N" + b"s", "data.pkl is damaged"),
        (b"(" * 3, "data.pkl is damaged"),
        (plain([1]), "holds no dict but something else"),
        (tensor(), "holds no dict but something else"),
        (dict_of(), "no tensors, neither under 'state_dict' nor beside it; got nothing"),
        (dict_of(model=dict_of(w=tensor()), n=plain(1)), "nor beside it; got 'model', 'n'"),
        (dict_of(state_dict=plain({}), w=tensor()), "no tensors"),
    ],
)
def test_other_pickles_are_refused(tmp_path, code, message):
    assert message in refusal(archive(tmp_path / "x.pt", code))


GOOD = dict_of(w=tensor())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.pkl": None}, "a zip without one data.pkl, so no PyTorch checkpoint. Legal: a"),
        ({"folder": ""}, "a zip without one data.pkl"),
        ({"folder": "a/b"}, "a zip without one data.pkl"),
        ({"constants.pkl": b""}, "a TorchScript program rather than weights"),
        ({"code__x.py": b""}, "a TorchScript program rather than weights"),
        ({"byteorder": b"big"}, "got byte order b'big'. Legal: little"),
        ({"byteorder": bytes(99)}, "byteorder has 99 bytes. Legal: at most 16"),
        ({"data.pkl": bytes((1 << 26) + 1), "compress": 8}, "Legal: at most 8388608"),
    ],
)
def test_other_archives_are_refused(tmp_path, settings, message):
    assert message in refusal(archive(tmp_path / "x.pt", GOOD, **settings))


def test_two_checkpoints_in_one_archive(tmp_path):
    path = archive(tmp_path / "x.pt", GOOD)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other/data.pkl", b"")
    assert "a zip without one data.pkl" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PyTorch file: got no zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no PyTorch file: got no zip archive"),
        (b"PK\x03\x04", "truncated or damaged zip; fetch it again"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "in the format from before torch 1.6"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    assert message in refusal(tmp_path / "x.pt")


def test_a_truncated_file_at_every_length(tmp_path):
    whole = archive(tmp_path / "whole.pt", GOOD).read_bytes()
    path = tmp_path / "x.pt"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_damaged_data_are_found_by_their_checksum(tmp_path):
    path = archive(tmp_path / "x.pt", GOOD)
    content = path.read_bytes()
    assert content.count(FOUR.tobytes()) == 1
    path.write_bytes(content.replace(FOUR.tobytes(), bytes(16)))
    with TorchFile(path) as file, pytest.raises(UserError, match="'w' is damaged: Bad CRC-32"):
        file["w"]


def test_a_pickle_damaged_anywhere_never_escapes(tmp_path):
    """Random bytes give a UserError or a tensor, whatever instruction they make."""
    rng, path = np.random.default_rng(0), tmp_path / "x.pt"
    code = bytearray(dict_of(n=plain([1, 2.5, "x"]), x=call(BUILT[3]), w=tensor()))
    for _ in range(500):
        damaged = bytearray(code)
        damaged[rng.integers(len(code))] = rng.integers(256)
        archive(path, bytes(damaged), protocol=4)
        with contextlib.suppress(UserError), TorchFile(path) as file:
            for key in list(file.keys()):
                assert isinstance(file[key], np.ndarray)


def test_only_the_tensors_own_bytes_are_kept(tmp_path):
    torch = pytest.importorskip("torch", reason=PARITY)
    whole = torch.arange(1000)
    buffer = io.BytesIO()
    torch.save({"part": whole[10:12]}, buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with TorchFile(tmp_path / "x.pt") as file:
        part = file["part"]
    assert part.tolist() == whole[10:12].tolist()
    base = part
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert base.nbytes == 16


def test_a_byte_flipped_anywhere_never_escapes(tmp_path):
    whole, path = archive(tmp_path / "whole.pt", GOOD).read_bytes(), tmp_path / "x.pt"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(UserError), TorchFile(path) as file:
            for key in list(file.keys()):
                assert isinstance(file[key], np.ndarray)


def test_deeply_nested_tuples_are_refused_before_they_can_overflow_the_stack(tmp_path):
    # As a key of a dict they would be hashed by recursion.
    data = b"\x80\x02})" + b"\x85" * 3_000_000 + b"Nss."
    with zipfile.ZipFile(tmp_path / "deep.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(UserError, match=r"nests far more than PyTorch does; it may be mali"):
        TorchFile(tmp_path / "deep.ckpt")
    deep = b"\x80\x02})" + b"\x85" * 39_000 + b"Nss."
    with zipfile.ZipFile(tmp_path / "less.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", deep)
    with pytest.raises(UserError):
        TorchFile(tmp_path / "less.ckpt")
