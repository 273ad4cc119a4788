"""`kill -9` while a data set is encoded, the same command again: the same files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compiling import QUICK_FLAGS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "e2e" / "tiny.py"
ENVIRONMENT = {**os.environ, "XLA_FLAGS": QUICK_FLAGS}  # one device
# In pixel space the first stage has no weights, so nothing needs to be trained first.
OVERRIDES = (
    "--config.task.first_stage.model.name=identity",
    "--config.task.model.out_channels=3",
    "--config.data.source.num_examples=3000",
    "--config.data.flip_probability=0.5",
)


def command(out):
    argv = [sys.executable, "-m", "ldm_jax.cli.main", "encode", f"--config={CONFIG}:class"]
    return [*argv, f"--out={out}", "--examples_per_shard=250", *OVERRIDES]


def finish(out):
    done = subprocess.run(
        command(out), env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_killed_encoding_ends_with_the_same_files(uninterrupted, tmp_path):
    out = tmp_path / "cache"
    with subprocess.Popen(
        command(out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None:
            assert time.monotonic() < deadline
            names = [path.name for path in out.glob("moments-*")]
            if any(name.endswith(".part") for name in names) and len(names) > 4:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = len(list(out.glob("moments-*.array_record")))
    assert 4 <= before < 12
    printed = finish(out)
    assert f" images encoded, {12 - before} shards written, {before} were there; " in printed
    assert contents(out) == uninterrupted


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "cache"
    finish(out)
    found = contents(out)
    assert len(found) == 12 + 2  # shards, cache.json, lock
    return found
