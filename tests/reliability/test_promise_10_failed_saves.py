"""Promise 10: a save that fails ends the run with a line that says so, within one save interval."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import QUICK_FLAGS

from ldm_jax.train.checkpoint import complete_steps

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "e2e" / "tiny.py"
STEPS, EVERY = 60, 10
ENVIRONMENT = {**os.environ, "XLA_FLAGS": QUICK_FLAGS}  # one device
# Each breaks saving once the first checkpoint is whole: when step 11 is called.
FULL_DISK = """
# Every write beyond the first 8 KiB of a file fails, as on a full disk or at a quota.
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def spoil(workdir):
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
"""
READ_ONLY = """
# What is left to do to root, whom no permission keeps from writing: a file in the folder's place.
def spoil(workdir):
    (workdir / "checkpoints").rename(workdir / "moved")
    (workdir / "checkpoints").write_text("")
"""
THREAD = """
# Within Orbax's writer thread, after the arrays were handed over.
import threading
import orbax.checkpoint as ocp
def spoil(workdir):
    def fail(*args, **kwargs):
        assert threading.current_thread() is not threading.main_thread()
        raise OSError(5, "Input/output error")
    ocp.CompositeCheckpointHandler.finalize = fail
"""
RUN = """
import pathlib, sys, time
from ldm_jax.cli.main import program
from ldm_jax.train.metrics import MetricWindow
workdir, add = pathlib.Path(sys.argv[1]), MetricWindow.add
def add_then_spoil(window, step, metrics):
    add(window, step, metrics)
    if step == 11:
        while not (workdir / "checkpoints" / "10").is_dir():
            time.sleep(0.01)
        spoil(workdir)
MetricWindow.add = add_then_spoil
del sys.argv[1]
program()
"""


def train(workdir, spoil=""):
    """Returns (status, our line about saving, else all of standard error) of a run."""
    arguments = ["train", f"--config={CONFIG}:autoencoder", f"--workdir={workdir}"]
    arguments += [f"--config.train.steps={STEPS}", f"--config.train.checkpoint_every={EVERY}"]
    arguments += ["--config.sample.grid_images=0", "--config.train.log_every=5"]
    program = ["-c", spoil + RUN, str(workdir)] if spoil else ["-m", "ldm_jax.cli.main"]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # Orbax's threads may say what they met as well, before or after.
    ours = [line for line in done.stderr.splitlines() if "could not be written" in line]
    return done.returncode, ours[-1] if ours else done.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(FULL_DISK, id="full_disk"),
        pytest.param(THREAD, id="thread"),
        pytest.param(READ_ONLY, id="read_only", marks=pytest.mark.slow),  # as the first, but sooner
    ],
)
def test_a_failed_save_is_loud(tmp_path, spoil):
    workdir = tmp_path / "run"
    status, line = train(workdir, spoil)
    assert status == 2, line
    kept = "there is none yet" if spoil is READ_ONLY else "the newest whole one is 10"
    assert line.startswith(f"ldm-jax: {workdir}/checkpoints: a checkpoint could not be written (")
    assert f"); {kept}. Legal: a folder that can be written to, with room; then " in line
    rows = [json.loads(row) for row in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] <= 3 * EVERY  # saved at 20, which fails, so the end is at 30 at most
    if spoil is READ_ONLY:
        (workdir / "checkpoints").unlink()
        (workdir / "moved").rename(workdir / "checkpoints")
    assert complete_steps(workdir) == [10]
    if spoil is FULL_DISK:  # room is made, and no cleaning
        assert train(workdir)[0] == 0
        assert complete_steps(workdir)[-1] == STEPS
