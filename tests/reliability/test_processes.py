"""Real processes on loopback: one run of several is the run of one, and ends as one.

All have four devices in all, so they compile the same program; only who holds what differs.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from compiling import QUICK_FLAGS

from ldm_jax.cli.main import main
from ldm_jax.data.latent_cache import LatentCache

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "e2e" / "tiny.py"
DEVICES, STEPS = 4, 6
MEASURED = 2  # batches of which the latents are measured first: scale_images=16, batch_size=8
# Of the other processes, once one is gone; JAX's heartbeats take 100 s where Gloo does not notice.
END_WITHIN_S = 150
# Latents are pixels, so no first stage needs to be trained; 24 classes, a learned conditioner.
PIXELS = (
    "--config.task.first_stage.model.name=identity",
    "--config.task.model.out_channels=3",
    "--config.sample.grid_images=4",
    "--config.train.learning_rate=0.001",
)
# Runs the command, and writes what every process hands to the devices: rows by step.
LAUNCHER = """
import hashlib, json, os, sys
import ldm_jax.data.pipeline as pipeline

hand_out = pipeline.Stream.__next__

def recorded(stream):
    batch = hand_out(stream)
    rows = zip(batch["image"], batch.get("class", batch["image"][:, 0, 0, 0]))
    digests = [hashlib.sha256(x.tobytes() + label.tobytes()).hexdigest() for x, label in rows]
    with open(os.environ["ROWS"], "a") as file:
        file.write(json.dumps(digests) + chr(10))
    return batch

pipeline.Stream.__next__ = recorded
from ldm_jax.train import pod_preflight
pod_preflight._VISIBLE_AFTER = 1.0
from ldm_jax.cli.main import program
from ldm_jax.data.latent_cache import LatentCache
program()
"""


class Command:
    """One command, run by so many processes at once."""

    def __init__(self, folder, count, *arguments):
        self.folder, self.count, self.arguments = folder, count, arguments
        folder.mkdir(parents=True, exist_ok=True)
        self.running = []

    def start(self, extra=(), in_folders=()):
        """Starts all; `extra` arguments of the last one, `in_folders` to start them in."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        for number in range(self.count):
            flags = [f"--coordinator_address={address}", f"--process_id={number}"]
            flags = [*flags, f"--num_processes={self.count}"] if self.count > 1 else []
            flags += extra if number == self.count - 1 else ()
            settings = {
                **os.environ,
                "XLA_FLAGS": (
                    f"--xla_force_host_platform_device_count={DEVICES // self.count} {QUICK_FLAGS}"
                ),
                "JAX_PLATFORMS": "cpu",
                "ROWS": str(self.folder / f"rows-{number}"),
            }
            argv = [sys.executable, "-c", LAUNCHER, *self.arguments, *flags]
            cwd = in_folders[number] if in_folders else ROOT
            with (self.folder / f"log-{number}").open("w") as log:
                self.running.append(
                    subprocess.Popen(argv, env=settings, stdout=log, stderr=log, cwd=cwd)
                )
        return self

    def wait(self, within=400):
        """Returns the statuses and what was written, by process."""
        deadline = time.monotonic() + within
        try:
            for process in self.running:
                process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in self.running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        statuses, self.running = [process.returncode for process in self.running], []
        return statuses, [self.log(number) for number in range(self.count)]

    def log(self, number):
        return (self.folder / f"log-{number}").read_text()

    def finish(self):
        statuses, logs = self.start().wait()
        assert statuses == [0] * self.count, "\n".join(logs)
        return logs

    def when(self, moment):
        """Waits until something has happened."""
        deadline = time.monotonic() + 300
        while not moment():
            alive = all(process.poll() is None for process in self.running)
            logs = map(self.log, range(self.count))
            assert alive, "\n".join(logs)
            assert time.monotonic() < deadline, "\n".join(logs)
            time.sleep(0.01)

    def rows(self):
        """Returns the digests of the rows of every batch, in order, over all processes."""
        parts = []
        for number in range(self.count):
            lines = (self.folder / f"rows-{number}").read_text().splitlines()
            parts.append([json.loads(line) for line in lines])
        return [list(itertools.chain(*step)) for step in zip(*parts, strict=True)]


def train(folder, count, *overrides, name="class", steps=STEPS):
    command = ["train", f"--config={TINY}:{name}", f"--workdir={folder / 'run'}"]
    command += [f"--config.train.steps={steps}", *PIXELS, *overrides]
    return Command(folder, count, *command)


def logged(folder):
    path = folder / "run" / "metrics.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def steps_of(folder):
    names = [path.name for path in (folder / "run" / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def averages(folder, step):
    """Returns the averaged parameters at a step, as NumPy arrays, wherever they lay."""
    path = (folder / "run" / "checkpoints" / str(step) / "ema_params").absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        read = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=read))


def assert_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, 1).finish()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run of two, which a SIGTERM to the second one stops later on."""
    folder = tmp_path_factory.mktemp("two")
    every = f"--config.train.checkpoint_every={STEPS}"
    command = train(folder, 2, every, "--config.train.keep_checkpoints=1000", steps=100_000)
    command.start()
    command.when(lambda: len(logged(folder)) > STEPS)
    command.running[1].send_signal(signal.SIGTERM)
    return folder, *command.wait(), command.rows()


def test_sigterm_to_one_process_saves_the_same_step_on_all(two):
    folder, statuses, logs, rows = two
    assert statuses == [0, 0], "\n".join(logs)
    last = steps_of(folder)[-1]
    assert logged(folder)[-1]["step"] == last
    assert len(rows) == MEASURED + last  # as many batches on both
    assert f"ldm-jax: stopped at step {last} of 100000 and saved; " in logs[0]
    assert "ldm-jax: process 0 on " in logs[0]
    assert "ldm-jax: process 1 on " in logs[0]
    assert "ldm-jax: " not in logs[1]  # the first process speaks for all
    assert "step/s" not in logs[1]


@pytest.mark.slow
@pytest.mark.parametrize("pressed", [0, 1])
def test_ctrl_c_in_one_process_saves_and_ends_all(tmp_path, pressed):
    command = train(tmp_path, 2, "--config.train.keep_checkpoints=1000", steps=100_000).start()
    command.when(lambda: len(logged(tmp_path)) > 2)
    command.running[pressed].send_signal(signal.SIGINT)
    statuses, logs = command.wait(within=60)
    assert statuses == [130 if number == pressed else 0 for number in range(2)], "\n".join(logs)
    assert f"stopped at step {steps_of(tmp_path)[-1]} of 100000 and saved; " in logs[0]


def test_two_processes_train_as_one(two, alone):
    folder, _, logs, rows = two
    expected = train(alone, 1).rows()
    assert len(expected) == MEASURED + STEPS
    assert {len(batch) for batch in expected} == {8}
    assert rows[: len(expected)] == expected, "\n".join(logs)
    assert_close(averages(folder, STEPS), averages(alone, STEPS))
    losses = [[row["loss"] for row in logged(x)[:STEPS]] for x in (folder, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert [row["step"] for row in logged(folder)] == list(range(1, len(logged(folder)) + 1))


def test_two_processes_draw_as_one(alone, tmp_path):
    """The one has another number of devices, so that values may be rounded otherwise."""
    arguments = ["sample", f"--workdir={alone / 'run'}", "--class=3", "--num_images=6", "--npz"]
    logs = Command(tmp_path, 2, *arguments, f"--out={tmp_path / 'two'}").finish()
    assert "6 images in" in logs[0]
    assert "images" not in logs[1]
    assert main([*arguments, f"--out={tmp_path / 'one'}"]) == 0

    def images(name):
        (path,) = (tmp_path / name).glob("*.npz")
        return np.load(path)["arr_0"].astype(int)

    assert images("two").shape == (6, 16, 16, 3)
    assert images("two").std() > 10
    np.testing.assert_allclose(images("two"), images("one"), atol=1)


def test_two_processes_encode_as_one(tmp_path):
    arguments = ["encode", f"--config={TINY}:class", "--examples_per_shard=20", *PIXELS[:2]]
    logs = Command(tmp_path, 2, *arguments, f"--out={tmp_path / 'two'}").finish()
    assert "64 images encoded, 4 shards written" in logs[0]
    assert "encoded" not in logs[1]
    assert main([*arguments, f"--out={tmp_path / 'one'}"]) == 0

    def names(name):
        return sorted(path.name for path in (tmp_path / name).iterdir())

    assert len(names("two")) == 4 + 2  # cache.json, lock
    assert names("two") == names("one")
    manifests = [(tmp_path / name / "cache.json").read_text() for name in ("two", "one")]
    assert manifests[0] == manifests[1]
    two, one = (LatentCache(str(tmp_path / name)) for name in ("two", "one"))
    assert len(two) == len(one) == 64
    for k in range(64):
        assert two[k]["class"] == one[k]["class"]
        np.testing.assert_allclose(two[k]["moments"], one[k]["moments"], atol=1e-6)


def test_processes_of_different_folders_are_refused_by_all(tmp_path):
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    command = train(tmp_path, 2)
    command.arguments = [x if "workdir" not in x else "--workdir=run" for x in command.arguments]
    statuses, logs = command.start(in_folders=folders).wait()
    assert statuses == [2, 2]
    for number, log in enumerate(logs):
        assert (
            "ldm-jax: process 0: --workdir=run: is not shared; what process 1 wrote there is not "
            "to be seen. Legal: a folder that all hosts mount.\n"
        ) in log, number
    assert [list(folder.rglob("*")) for folder in folders] == [[x / "run"] for x in folders]


@pytest.mark.slow  # its text is tested in tests/unit/parallel/test_multihost.py
def test_processes_of_different_commands_are_refused_by_all(tmp_path):
    statuses, logs = train(tmp_path, 2).start(extra=["--config.train.b1=0.5"]).wait()
    assert statuses == [2, 2]
    assert all("ldm-jax: process 1: the command is " in log for log in logs), "\n".join(logs)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # a minute: killed processes are noticed by those that are left
@pytest.mark.parametrize(("count", "victim"), [(2, 1), (4, 2), (4, 0)])
def test_killed_process_ends_all_and_the_run_goes_on(tmp_path, count, victim):
    every = f"--config.train.checkpoint_every={STEPS}"
    command = train(tmp_path, count, every, steps=100_000).start()
    command.when(lambda: (tmp_path / "run" / "checkpoints" / str(STEPS)).is_dir())
    command.running[victim].kill()
    statuses, logs = command.wait(within=END_WITHIN_S)
    assert all(status != 0 for status in statuses), "\n".join(logs)
    kept = steps_of(tmp_path)[-1]
    train(tmp_path, count, every, steps=kept + 1).finish()
    assert steps_of(tmp_path)[-1] == kept + 1
    whole = tmp_path / "whole"
    train(whole, count, every, steps=kept + 1).finish()
    assert_close(averages(tmp_path, kept + 1), averages(whole, kept + 1))


@pytest.mark.slow  # as two do, in half a minute
def test_four_processes_train_as_one(alone, tmp_path):
    command = train(tmp_path, 4)
    command.finish()
    assert command.rows() == train(alone, 1).rows()
    assert_close(averages(tmp_path, STEPS), averages(alone, STEPS))
