"""Promise 2: fifty times `kill -9`, at random moments and in the middle of saving: the same bits.

A few kills at chosen moments are in `test_kill_resume.py`, and in every run of the tests.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ldm_jax.train.checkpoint import complete_steps

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "e2e" / "tiny.py"
KILLS, EVERY, STEPS = 50, 5, 1500  # so many steps that no kill comes too late
ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}  # one device


def command(workdir):
    argv = [sys.executable, "-m", "ldm_jax.cli.main", "train", f"--config={CONFIG}:autoencoder"]
    argv += [f"--workdir={workdir}", f"--config.train.steps={STEPS}"]
    argv += [f"--config.train.checkpoint_every={EVERY}", "--config.train.keep_checkpoints=3"]
    argv += [f"--config.train.log_every={EVERY}", "--config.train.learning_rate=1e-3"]
    return [*argv, f"--config.train.sample_every={STEPS}", "--config.sample.grid_images=0"]


def kill(workdir, draw):
    """Starts the run and kills it: while it starts, while it trains, or while it saves.

    Returns whether it was while it saved.
    """
    before = complete_steps(workdir)
    moment = draw.choices(["starts", "trains", "saves"], [1, 3, 6])[0]
    wait, saves = draw.uniform(0, 0.3), draw.randint(1, 4)
    checkpoints = workdir / "checkpoints"
    with subprocess.Popen(
        command(workdir), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        if moment == "starts":
            time.sleep(20 * wait)
        else:
            _until(process, lambda: complete_steps(workdir)[-saves:] not in (before[-saves:], []))
            if moment == "trains":
                time.sleep(wait)
            else:
                _until(process, lambda: any(checkpoints.glob("*tmp*")))
                time.sleep(wait / 20)  # a save takes about as long
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return any(checkpoints.glob("*tmp*"))


def _until(process, happens):
    deadline = time.monotonic() + 240
    while not happens():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def load(workdir, step):
    """Returns all that is in a checkpoint, without changing the folder that it is in."""
    items = ("params", "ema_params", "optimizer")
    read = {name: ocp.args.StandardRestore() for name in items}
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(workdir / "checkpoints", options=options) as manager:
        assert manager.latest_step() == step
        return dict(
            manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), **read))
        )


def finish(workdir):
    done = subprocess.run(
        command(workdir), env=ENVIRONMENT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    return load(workdir, STEPS)


@pytest.mark.slow
def test_fifty_kills_change_nothing(tmp_path):
    draw, torn, newest = random.Random(7), 0, 0
    for _ in range(KILLS):
        torn += kill(tmp_path / "killed", draw)
        steps = complete_steps(tmp_path / "killed")
        assert not steps or steps[-1] >= newest  # what is whole stays whole
        if steps:
            newest = steps[-1]
            assert int(load(tmp_path / "killed", newest)["optimizer"]["step"]) == newest
    assert torn >= KILLS // 10
    assert newest < STEPS
    got, expected = finish(tmp_path / "killed"), finish(tmp_path / "whole")
    assert not any((tmp_path / "killed" / "checkpoints").glob("*tmp*"))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
