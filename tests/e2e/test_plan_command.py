"""`ldm-jax plan` and `ldm-jax info --mesh`: real programs of tiny models, and every mistake."""

import contextlib
import importlib.util
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import as_users_compile

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.main import main
from ldm_jax.parallel.chips import Chip
from ldm_jax.parallel.mesh import make_abstract_mesh
from ldm_jax.parallel.placement import placed_bytes
from ldm_jax.parallel.plan import Cost
from ldm_jax.train import plan
from ldm_jax.train.abstract_run import abstract_run
from ldm_jax.train.checkpoint import write_config

TINY = str(Path(__file__).parent / "tiny.py")


def command(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns the last line of standard error."""
    assert main([str(argument) for argument in arguments]) == 2
    return capfd.readouterr().err.splitlines()[-1].removeprefix("ldm-jax: ")


class TestInfo:
    """What lands where, for devices that are not here."""

    def test_bytes_on_a_mesh_of_more_devices_than_there_are(self, capsys):
        command("info", "--config", f"{TINY}:text", "--mesh", "2,8,4", "--json")
        facts = json.loads(capsys.readouterr().out)
        assert facts["mesh"] == {"data": 2, "fsdp": 8, "tensor": 4}
        sizes, rows = facts["bytes_per_device"], facts["placement"]
        total = sizes.pop("total")
        assert total == sum(sizes.values())
        assert sizes["params"] == sizes["ema_params"]
        assert sizes["optimizer"] == 2 * sizes["params"] + 2 * 4  # AdamW's moments and counts
        held = {"params": 0, "frozen": 0}
        for row in rows:
            held[row["where"].partition("/")[0]] += row["bytes_per_device"]
            parts = math.prod(facts["mesh"][axis] for axis in row["split"] if axis)
            whole = 4 * row["arrays"] * math.prod(row["shape"])
            assert row["bytes_per_device"] == whole // parts
        assert held == {name: sizes[name] for name in held}
        (query,) = [
            x for x in rows if x["where"].endswith("mid_attn/block_*/self_attn/to_q/kernel")
        ]
        assert (query["shape"], query["split"]) == ([8, 8], ["fsdp", "tensor"])

    def test_table_of_a_run(self, tmp_path, capsys):
        write_config(tmp_path, load_config(f"{TINY}:text"))
        command("info", "--workdir", tmp_path, "--mesh", "1,2,1")
        text = capsys.readouterr().out
        assert text.startswith("where ")
        assert "params/unet/conv_in/kernel" in text
        assert "mesh                     data 1, fsdp 2, tensor 1\n" in text
        assert "bytes per device         params " in text

    def test_mistakes(self, capfd):
        assert refuse(capfd, "info", "--config", TINY, "--mesh", "8") == (
            "--mesh=8: legal are three sizes ('data', 'fsdp', 'tensor'), such as 2,4,1."
        )
        assert "--mesh=: legal are three sizes" in refuse(
            capfd, "info", "--config", TINY, "--mesh="
        )
        assert refuse(capfd, "info", "--json") == (
            "info: needs a configuration. Legal: --config=FILE, or --workdir=DIR."
        )


MESH = (2, 4, 1)


@pytest.fixture(scope="module")
def found():
    """The plan of a class-conditional model on the eight devices here."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        command("plan", "--config", f"{TINY}:class", "--mesh", "2,4,1", "--json")
    return json.loads(text.getvalue())


class TestPrograms:
    """The real programs, compiled."""

    def test_devices(self, found):
        assert (found["topology"], found["devices"]) == ("local", 8)
        assert found["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
        assert found["chip"] is found["memory_bytes"] is found["largest_batch"] is None
        assert found["images_per_second"] == {}
        assert list(found["programs"]) == ["train_step", "evaluation", "decode"]
        assert found["programs"]["evaluation"]["runs"] == 2  # config.sample.steps

    def test_arguments_of_the_train_step_are_the_arrays_that_it_reads(self, found):
        run = abstract_run(load_config(f"{TINY}:class"))
        mesh = make_abstract_mesh(MESH)
        unread = {k: v for k, v in run.frozen.params.items() if k in ("decoder", "post_quant_conv")}
        batch = 16 * 16 * 3 + 4  # uint8 pixels, and a class
        expected = found["held_bytes"]["total"] - placed_bytes(mesh, unread) + batch + 4  # step
        step = found["programs"]["train_step"]
        assert step["argument_bytes"] == expected
        # State goes out in the place where it came in; what is new are metrics, and where they lie.
        assert step["output_bytes"] < 0.1 * step["argument_bytes"]

    def test_costs(self, found):
        for program in found["programs"].values():
            assert program["fits"] is None
            assert 0 < program["flops"] < 2 * program["compiled_flops"]
            assert program["bytes_accessed"] > program["argument_bytes"] / 2
            # Weights are stored in parts along fsdp and gathered to be used.
            assert program["collectives"]["all-gather"]["count"] > 0
        sent = found["programs"]["train_step"]["collectives"]
        assert sum(sent[kind]["bytes"] for kind in sent if "reduce" in kind) > 0
        assert "all-reduce" not in found["programs"]["evaluation"]["collectives"]


def test_tables_bounds_and_the_largest_batch(capsys, monkeypatch):
    """On a chip of 1,000 bytes whose programs need 100 bytes and 150 more for each image."""

    def measure(traced, devices):
        assert devices == 8
        batch = traced.args_info[0][2]["image"].shape[0] // 8
        peak = 100 + 150 * batch
        return Cost(1, 2, 3, peak, 4e9, 5e9, 6e6, {}, 0.5, 7.0)

    chip = Chip("tiny", 1000, 1000, flops=1e9, bytes_per_second=1e9)
    monkeypatch.setattr(plan, "measure", measure)
    monkeypatch.setattr(plan, "chip_of", lambda kind: chip)
    command("plan", "--config", TINY, "--mesh", "8,1,1", "--batch", "2")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:2] == [
        "local: 8 × cpu, mesh data 8, fsdp 1, tensor 1",
        "tiny: 1000 B, 1 GFLOP/s in bfloat16, 1 GB/s",
    ]
    table = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert table["images"] == "2"
    assert table["all of these"] == "400 B"
    assert table["FLOPs of products"] == "4 G"
    assert table["least time"] == "4000 ms"
    assert table["limited by"] == "arithmetic"
    assert table["fits"] == "yes"
    assert lines[-2:] == [
        "train: at most 4.0 images/s on all devices; the compiler expects 32.0",
        "largest train batch per device: 6 (compiled: 2 400 B, 4 700 B, 6 1000 B)",
    ]
    assert "ldm-jax: compiling: train step, 6 images per device, 8 devices" in err


def test_what_does_not_fit_is_said_last(capfd, monkeypatch):
    monkeypatch.setattr(
        plan, "measure", lambda *_: Cost(0, 0, 0, 3 * 2**30, 1e9, 1e9, 1e9, {}, None, 1.0)
    )
    chip = Chip("tiny", 2**30, 2**30, flops=1e9, bytes_per_second=1e9)
    monkeypatch.setattr(plan, "chip_of", lambda kind: chip)
    line = refuse(capfd, "plan", "--config", TINY, "--fixed_batch")
    assert line == (
        "train_step with 1 images per device needs 3 GiB, a device has 1 GiB. Legal: fewer images, "
        "or a mesh with more fsdp."
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mesh", "2,3,1"], "mesh=(2, 3, 1): the sizes must multiply to this run's 8 device(s)."),
        (["--programs", "train,sampel"], "--programs: got 'sampel'; did you mean 'sample'?"),
        (["--programs", "sample"], "config.task.name='autoencoder' has no sampling. Legal: train."),
        (["--batch", "0"], "--batch: got 0. Legal: 1 or more."),
        (
            ["--batch", "3", "--config.train.accumulation=2"],
            "--batch=3: must be a multiple of config.train.accumulation=2. Legal: 2, 4, …",
        ),
        (
            ["--config.train.batch_size=12"],
            "train.batch_size=12 must be a multiple of data × fsdp × accumulation = 8.",
        ),
        (["--topology", "v5e"], "--topology=v5e: no such topology. Legal: local, or a slice as"),
        (["--config.task.model.channels=5"], "num_groups=4 must divide"),
    ],
)
def test_mistakes(capfd, arguments, expected):
    assert expected in refuse(capfd, "plan", "--config", TINY, *arguments)


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the compiler for TPUs: pip install "ldm-jax[tpu-plan]"',
)


def on_a_tpu(*arguments):
    """Runs a command in a process of its own, since libtpu stays loaded."""
    return subprocess.run(
        [sys.executable, "-m", "ldm_jax.cli.main", "plan", "--config", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env=as_users_compile(),
    )


@pytest.mark.slow
@needs_libtpu
def test_a_slice_that_is_not_here():
    done = on_a_tpu(f"{TINY}:class", "--topology", "v5e:2x2", "--mesh=-1,2,1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["device_kind"], found["devices"]) == ("TPU v5 lite", 4)
    assert found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert found["chip"]["name"] == "v5e"
    step = found["programs"]["train_step"]
    assert (step["batch_per_device"], step["fits"]) == (2, True)
    assert step["collectives"]["all-gather"]["count"] > 0
    assert found["images_per_second"]["train"]["bound"] > 0
    # Two batches make a line, and what it promises was compiled.
    largest = found["largest_batch"]
    assert largest["batch"] > 4
    assert str(largest["batch"]) in largest["peak_bytes"]
    assert all(line.startswith("ldm-jax: ") for line in done.stderr.splitlines())


@pytest.mark.slow
@needs_libtpu
def test_a_slice_that_nobody_has():
    done = on_a_tpu(TINY, "--topology", "v5e:3x5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ldm-jax: --topology=v5e:3x5: libtpu does not know it (")
    assert done.stderr.count("\n") == 1
