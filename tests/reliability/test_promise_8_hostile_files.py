"""Promise 8: what somebody sent is read or refused in one line; it never runs or leads elsewhere.

Each file comes in by the door that users have, a command. Instruction by instruction, hostile
pickles, headers and records are tested in `tests/unit/interop/`, `tests/unit/data/` and
`tests/unit/core/test_plugins.py`.
"""

import copy
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import HuggingFaceTokenizer
from ldm_jax.train.checkpoint import write_config

TINY = str(Path(__file__).parents[1] / "e2e" / "tiny.py")


class Trap:
    """When it is unpickled, makes a folder."""

    def __init__(self, marker):
        self._marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self._marker,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "sprung"


@pytest.fixture
def refused(tmp_path, marker, capfd, monkeypatch):
    """Runs a command that must fail in one line and leave all files as they are."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        lines = capfd.readouterr().err.splitlines()
        assert (status, len(lines)) == (2, 1), lines
        assert not marker.exists()
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def malicious(path, marker):
    """Writes a checkpoint of PyTorch's, with weights and a trap in it."""
    content = pickle.dumps({"state_dict": {}, "callbacks": Trap(marker)}, 2)
    if path.suffix == ".pt":  # from before torch 1.6: pickles, one after the other
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        parts = [*(pickle.dumps(part, 2) for part in head), content, pickle.dumps([], 2)]
        path.write_bytes(b"".join(parts))
        return path
    return zipped(path, {"archive/data.pkl": content, "archive/data/0": bytes(16)})


def test_the_trap_is_real(tmp_path, marker):
    path = malicious(tmp_path / "x.ckpt", marker)
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert marker.is_dir()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize("door", ["convert", "sample", "first_stage", "init_from"])
def test_malicious_pickles(tmp_path, marker, refused, door, suffix):
    path = malicious(tmp_path / f"x{suffix}", marker)
    train = ["train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run"]
    doors = {
        "convert": ["convert", path, tmp_path / "out", "--to", "ldm_jax"],
        "sample": ["sample", "--checkpoint", path, "--prompt", "a"],
        "first_stage": [*train, f"--config.task.first_stage.workdir={path}"],
        "init_from": [*train, f"--config.train.init_from={path}"],
    }
    assert "posix.mkdir, which a checkpoint of weights has no use for; it may be malicious" in (
        refused(*doors[door])
    )


@pytest.mark.parametrize("field", ["lpips_weights", "inception_weights"])
def test_malicious_weights_of_judges(tmp_path, marker, refused, field):
    path = malicious(tmp_path / "x.ckpt", marker)
    command = ["train", "--config", f"{TINY}:adversarial", "--workdir", tmp_path / "run"]
    metric = "lpips" if field == "lpips_weights" else "rfid"
    line = refused(
        *command, f"--config.train.{field}={path}", f'--config.evaluation.metrics=("{metric}",)'
    )
    assert ("no other pickle is read" if metric == "lpips" else "refers to posix.mkdir") in line


def test_arrays_of_objects(tmp_path, marker, refused):
    trap = np.array([Trap(marker)], object)
    np.savez(tmp_path / "x.npz", low_res=trap)
    line = refused("sample", "--workdir", tmp_path / "run", "--conditions", tmp_path / "x.npz")
    assert "x.npz: not a .npz of plain arrays (Object arrays cannot be loaded when allow" in line
    np.save(tmp_path / "x.npy", trap)
    derive = {"name": "image_embedding", "embeddings": str(tmp_path / "x.npy")}
    config = tmp_path / "config.py"
    config.write_text(
        f"import runpy\ntiny = runpy.run_path({TINY!r})\n\n\ndef get_config():\n"
        "    config = tiny['get_config']('super_resolution')\n"
        f"    config.data.derive = {{'low_res': {derive!r}}}\n    return config\n"
    )
    line = refused("train", "--config", config, "--workdir", tmp_path / "run")
    assert "x.npy: no .npy file (" in line
    with np.load(tmp_path / "x.npz", allow_pickle=True) as careless:
        careless["low_res"]
    assert marker.is_dir()


def header(tensors, data=bytes(16), length=None):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


FIRST = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "overlap": (header({"a": FIRST, "b": {**FIRST, "data_offsets": [4, 12]}}), "hole or overlap"),
    "beyond_the_end": (
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}),
        "hole or overlap",
    ),
    "longer_than_the_file": (header({"a": FIRST}, length=1 << 30), "or truncated"),
    "longer_than_memory": (header({"a": FIRST}, length=(1 << 64) - 1), "or truncated"),
    "negative": (header({"a": {**FIRST, "data_offsets": [-8, 0]}}), "shape or data_offsets are"),
    "a_size_that_wraps": (header({"a": {**FIRST, "shape": [1 << 63, 2]}}), "shape or data_offsets"),
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_with_a_lying_header(tmp_path, refused, lie):
    content, message = LIES[lie]
    (tmp_path / "x.safetensors").write_bytes(content)
    line = refused("convert", tmp_path / "x.safetensors", tmp_path / "out", "--to", "ldm_jax")
    assert line.startswith(f"ldm-jax: {tmp_path}/x.safetensors: ")
    assert message in line


@pytest.mark.parametrize("name", ["../../x", "/x", "..\\x"])
def test_archives_whose_members_lead_elsewhere(tmp_path, refused, name):
    """Nothing is ever unpacked, so there is nothing for such names to lead to."""
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    state = {"archive/data.pkl": pickle.dumps({"state_dict": {}}, 2)}
    for archive in (state, {f"{name}/data.pkl": state["archive/data.pkl"]}):
        path = zipped(here / "x.ckpt", {**archive, f"{name}.py": b"raise SystemExit"})
        line = refused("convert", path, tmp_path / "out", "--to", "ldm_jax")
        assert line.startswith(f"ldm-jax: {path}: ")
    array = io.BytesIO()
    np.save(array, np.zeros(2))
    path = zipped(here / "x.npz", {f"{name}.npy": array.getvalue()})
    refused("sample", "--workdir", tmp_path / "run", "--conditions", path)


def test_tar_members_that_lead_elsewhere(tmp_path, refused, capfd):
    image = io.BytesIO()
    Image.new("RGB", (16, 16)).save(image, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../../b.png", "/tmp_of_nobody/c.png", "d.png"):
            info = tarfile.TarInfo(name)
            info.size = len(image.getvalue())
            tar.addfile(info, io.BytesIO(image.getvalue()))
        link = tarfile.TarInfo("e.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert main(["data", "check", str(tmp_path / "a.tar"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["readable"] == 3  # read within, unpacked nowhere
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "a/../../secret.png"])
@pytest.mark.parametrize("column", ["file_name", "mask"])
def test_rows_that_lead_elsewhere(tmp_path, refused, name, column):
    images = tmp_path / "images"
    images.mkdir()
    for path in (images / "a.png", tmp_path / "secret.png"):
        Image.new("RGB", (16, 16)).save(path)
    row = {"file_name": "a.png", column: name}
    (images / "metadata.jsonl").write_text(json.dumps(row))
    assert f"{column} is '{name}'. Legal: a file in the folder" in refused("data", "check", images)


@pytest.mark.parametrize("name", ["../../x.safetensors", "/x.safetensors", "../x.bin", "x.ckpt"])
def test_an_index_that_leads_elsewhere(tmp_path, refused, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "x.safetensors").write_bytes(header({"a": FIRST}, bytes(8)))
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    line = refused("convert", path, tmp_path / "out", "--to", "ldm_jax")
    assert line == (
        f"ldm-jax: {path}: got shard {name!r}. Legal: a .safetensors file beside the index."
    )


@pytest.mark.parametrize(
    "field", ["task.conditioner", "task.model", "data.tokenizer", "data.source", "sample.sampler"]
)
def test_a_stored_configuration_that_names_code(tmp_path, marker, refused, field):
    (tmp_path / "trap.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    config = copy.deepcopy(load_config(f"{TINY}:text"))
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({f"{field}.name": "trap:Trap"})
    workdir = tmp_path / "run"
    write_config(workdir, config)
    (workdir / "checkpoints" / "1").mkdir(parents=True)
    line = refused("sample", "--workdir", workdir, "--prompt", "a")
    if not field.startswith("data"):  # which is looked at after the weights, if at all
        assert "trap:Trap: a stored configuration asks for code from outside ldm_jax" in line


def test_a_tokenizer_that_brings_code(tmp_path, marker):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    settings = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(UserError) as error:
        HuggingFaceTokenizer(path=str(tmp_path), length=8)
    assert "\n" not in str(error.value)
    assert not marker.exists()
