"""PyTorch checkpoints from before torch 1.6; `test_torch_pickle` has the attacks on pickles."""

import struct

import numpy as np
import pytest
from test_torch_pickle import FOUR, PARITY, call, dict_of, name, plain, tensor

from ldm_jax.core.checks import UserError
from ldm_jax.interop.tensors import open_tensors
from ldm_jax.interop.torch_legacy import LegacyTorchFile

MAGIC = 0x1950A86A20F9469CFC6C
MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
DATA = struct.pack("<q", 4) + FOUR.tobytes()


def storage(key="0", numel=4, kind=("torch", "FloatStorage"), view=None):
    """Returns BINPERSID; the sixth part said of which storage this one is a view."""
    parts = (plain("storage"), name(*kind), plain(key), plain("cpu"), plain(numel), plain(view))
    return b"(" + b"".join(parts) + b"tQ"


ONE = dict_of(a=tensor(of=storage()))


def write(path, code=ONE, data=DATA, magic=MAGIC, version=1001, machine=MACHINE, keys=("0",)):
    """Writes a checkpoint from the instructions of its fourth pickle."""
    parts = [plain(magic), plain(version), plain(machine), code, plain(list(keys))]
    path.write_bytes(b"".join(b"\x80\x02" + part + b"." for part in parts) + data)
    return path


def refusal(path):
    """Returns the message of the UserError that opening raises, after the path."""
    with pytest.raises(UserError) as caught:
        LegacyTorchFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_a_file_is_known_by_its_first_byte(tmp_path, suffix):
    with open_tensors(write(tmp_path / f"x{suffix}")) as file:
        assert list(file.keys()) == ["a"]
        assert file.info("a") == ((2, 2), np.float32)
        np.testing.assert_array_equal(file["a"], FOUR.reshape(2, 2))


def test_views_and_several_storages(tmp_path):
    code = dict_of(
        a=tensor(offset=1, size=(3,), stride=(1,), of=storage()),
        b=tensor(size=(2, 2), stride=(1, 2), of=storage()),
        c=tensor(offset=1, size=(2,), stride=(1,), of=storage("9", 3, ("torch", "LongStorage"))),
    )
    longs = struct.pack("<4q", 3, 5, 6, 7)
    for keys, data in ((("0", "9"), DATA + longs), (("9", "0"), longs + DATA)):
        with open_tensors(write(tmp_path / "x.pt", code, data, keys=keys)) as file:
            np.testing.assert_array_equal(file["a"], [2, 3, 4])
            np.testing.assert_array_equal(file["b"], [[1, 3], [2, 4]])
            np.testing.assert_array_equal(file["c"], [6, 7])
            assert file["c"].dtype == np.int64


@pytest.mark.parametrize("lightning", [False, True])
def test_files_of_torch(tmp_path, lightning):
    torch = pytest.importorskip("torch", reason=PARITY)
    base = torch.arange(12, dtype=torch.float32).view(3, 4)
    weights = {
        "base": base,
        "turned": base.T,
        "row": base[1],
        "half": torch.ones(3, dtype=torch.float16) / 3,
        "bfloat": torch.ones(3, dtype=torch.bfloat16) / 3,
        "count": torch.tensor(7),
        "none": torch.zeros(0, 2),
        "module": torch.nn.Parameter(torch.randn(2, 3, 1, 1)),
    }
    top = {"state_dict": weights, "epoch": 3} if lightning else weights
    path = tmp_path / "x.pth"
    torch.save(top, path, _use_new_zipfile_serialization=False)
    with open_tensors(path) as file:
        assert list(file.keys()) == list(weights)
        for key, expected in weights.items():
            got = file[key].astype(np.float64)
            np.testing.assert_array_equal(got, expected.detach().double().numpy())
        assert file.numbers == ({"epoch": 3} if lightning else {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 1}, "a pickle that is no PyTorch checkpoint. Legal: a state_dict saved by"),
        ({"version": 1000}, "a pickle that is no PyTorch checkpoint."),
        ({"machine": {"little_endian": False}}, "got another byte order. Legal: little."),
        ({"machine": 3}, "got another byte order. Legal: little."),
        ({"keys": ["0", "1"]}, "lists data that nothing refers to; the file is damaged."),
        ({"keys": [0]}, "lists data that nothing refers to; the file is damaged."),
        ({"keys": []}, "'a': its data, '0', is missing from the file."),
        ({"data": DATA[:-1]}, "truncated in its data '0'; fetch it again."),
        ({"data": b"\x05" + DATA[1:]}, "its data '0': got 5 elements, expected 4."),
        ({"data": b"\xff" * 8 + DATA[8:]}, "its data '0': got 18446744073709551615 elements"),
        (
            {"code": dict_of(a=tensor(of=storage(numel=1 << 62)))},
            "truncated in its data '0'; fetch it again.",
        ),
        (
            {"code": dict_of(a=tensor(of=storage(view=("1", 0, 4))))},
            "refers to data in another form than PyTorch's; it may be malicious.",
        ),
        (
            {"code": dict_of(a=tensor(size=(5,), stride=(1,), of=storage()))},
            "'a': offset 0, size (5,) and stride (1,) reach beyond its storage of 4 elements.",
        ),
        (
            {
                "code": dict_of(
                    a=tensor(of=storage()),
                    b=tensor(of=storage(kind=("torch", "DoubleStorage"))),
                )
            },
            "'b': its data, '0', got 16 bytes, expected 32.",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, message):
    assert refusal(write(tmp_path / "x.pt", **changes)).startswith(message)


@pytest.mark.parametrize("part", ["magic", "version", "machine", "code", "keys"])
def test_no_pickle_of_a_file_may_call(tmp_path, part):
    ran = tmp_path / "ran"
    attack = call(name("os", "mkdir"), plain(str(ran)))
    parts = {"magic": plain(MAGIC), "version": plain(1001), "machine": plain(MACHINE)}
    parts |= {"code": ONE, "keys": plain(["0"])}
    code = b"".join(b"\x80\x02" + p + b"." for p in (parts | {part: attack}).values())
    path = tmp_path / "x.pt"
    path.write_bytes(code + DATA)
    assert "refers to os.mkdir, which a checkpoint of weights has no use for" in refusal(path)
    assert not ran.exists()


def test_a_truncated_file_at_every_length(tmp_path):
    whole = write(tmp_path / "x.pt").read_bytes()
    path = tmp_path / "y.pt"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
