"""`kill -9` at any moment, the same command again: the same run to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from compiling import QUICK_FLAGS

from ldm_jax.train.checkpoint import Checkpoints, restore_params

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "e2e" / "tiny.py"
STEPS, EVERY = 30, 5
ITEMS = ("params", "ema_params", "optimizer", "data")
ENVIRONMENT = {**os.environ, "XLA_FLAGS": QUICK_FLAGS}  # one device


class Training:
    """One command, `ldm-jax train`, which may be started again and again."""

    def __init__(self, name, workdir, *overrides):
        self.workdir = workdir
        self.argv = [sys.executable, "-m", "ldm_jax.cli.main", "train"]
        self.argv += [f"--config={CONFIG}:{name}", f"--workdir={workdir}"]
        self.argv += [f"--config.train.steps={STEPS}", f"--config.train.checkpoint_every={EVERY}"]
        self.argv += ["--config.sample.grid_images=0", *overrides]

    def finish(self, expected_status=0):
        """Runs to the end; returns the lines on standard error that are not the progress bar."""
        done = subprocess.run(
            self.argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == expected_status, done.stderr
        assert "Traceback" not in done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith("ldm-jax:")]

    def kill_when(self, moment):
        """Starts, and sends SIGKILL as soon as `moment(workdir)` is true."""
        assert self.signal_when(moment, signal.SIGKILL)[0] == -signal.SIGKILL

    def signal_when(self, moment, number):
        """Starts, and sends a signal as soon as `moment(workdir)` is true; (status, output)."""
        log = self.workdir.with_suffix(".log")
        with (
            log.open("w") as output,
            subprocess.Popen(self.argv, env=ENVIRONMENT, stdout=output, stderr=output) as process,
        ):
            deadline = time.monotonic() + 240
            while not moment(self.workdir) and process.poll() is None:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.001)
            process.send_signal(number)
            return process.wait(), log.read_text()


def started(workdir):
    return (workdir / "config.json").exists()


def has_logged(workdir):
    return (workdir / "metrics.jsonl").exists()


def writing_frozen(workdir):
    return any(workdir.glob("frozen*tmp*"))


def writing_checkpoint(workdir):
    return any((workdir / "checkpoints").glob("*tmp*"))


def saved(step):
    return lambda workdir: (workdir / "checkpoints" / str(step)).is_dir()


def complete_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def leftovers(workdir):
    return [*workdir.glob("*tmp*"), *(workdir / "checkpoints").glob("*tmp*")]


def assert_equal_runs(got, expected):
    a, b = _last_checkpoint(got), _last_checkpoint(expected)
    assert int(a["optimizer"]["step"]) == STEPS
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
    assert len(jax.tree.leaves(a["params"])) > 10
    # One row per logged step, whatever the killed runs had written beyond their checkpoints.
    rows = [_logged(workdir) for workdir in (got, expected)]
    assert [row["step"] for row in rows[0]] == sorted({row["step"] for row in rows[0]})
    assert rows[0][-1]["step"] == rows[1][-1]["step"] == STEPS


def _logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _last_checkpoint(workdir):
    read = {name: ocp.args.StandardRestore() for name in ITEMS[:3]}
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        return dict(
            manager.restore(STEPS, args=ocp.args.Composite(data=ocp.args.JsonRestore(), **read))
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def autoencoder(runs):
    """An uninterrupted run of the first stage."""
    Training("autoencoder", runs / "autoencoder").finish()
    return runs / "autoencoder"


@pytest.mark.slow  # as the diffusion model, which every run of the tests kills
def test_killed_autoencoder_equals_the_uninterrupted_one(runs, autoencoder):
    training = Training("autoencoder", runs / "killed")
    training.kill_when(started)
    training.kill_when(writing_checkpoint)
    training.kill_when(saved(2 * EVERY))
    last = max(complete_steps(training.workdir))
    assert last < STEPS
    assert training.finish() == [f"ldm-jax: resumed at step {last} of {STEPS}"]
    assert leftovers(training.workdir) == []
    assert_equal_runs(training.workdir, autoencoder)


@pytest.mark.slow  # half a minute more than what every run of the tests kills, the diffusion model
def test_killed_adversarial_first_stage_equals_the_uninterrupted_one(runs):
    uninterrupted = Training("adversarial", runs / "adversarial")
    uninterrupted.finish()
    training = Training("adversarial", runs / "adversarial_killed")
    training.kill_when(writing_checkpoint)
    training.kill_when(saved(2 * EVERY))
    last = max(complete_steps(training.workdir))
    assert last < STEPS
    assert training.finish() == [f"ldm-jax: resumed at step {last} of {STEPS}"]
    assert_equal_runs(training.workdir, uninterrupted.workdir)
    kept = _last_checkpoint(training.workdir)["optimizer"]["mutable"]
    assert {"norm_1", "norm_2"} <= set(kept["discriminator"]["batch_stats"])
    assert set(kept["codebook"]) == {"candidates", "shares"}


def test_killed_diffusion_model_equals_the_uninterrupted_one(runs, autoencoder):
    first_stage = f"--config.task.first_stage.workdir={autoencoder}"
    uninterrupted = Training("text", runs / "text", first_stage)
    uninterrupted.finish()
    training = Training("text", runs / "text_killed", first_stage)
    training.kill_when(writing_frozen)
    training.kill_when(writing_checkpoint)
    training.kill_when(saved(3 * EVERY))
    last = max(complete_steps(training.workdir))
    assert last < STEPS
    assert training.finish() == [f"ldm-jax: resumed at step {last} of {STEPS}"]
    assert leftovers(training.workdir) == []
    assert_equal_runs(training.workdir, uninterrupted.workdir)


def test_sigterm_saves_the_present_step_before_it_stops(runs, autoencoder):
    training = Training("autoencoder", runs / "stopped", "--config.train.checkpoint_every=1000")
    status, output = training.signal_when(has_logged, signal.SIGTERM)
    assert status == 0
    (step,) = complete_steps(training.workdir)
    assert f"ldm-jax: stopped at step {step} of {STEPS} and saved; " in output
    assert training.finish() == [f"ldm-jax: resumed at step {step} of {STEPS}"]
    assert_equal_runs(training.workdir, autoencoder)


def test_leftovers_of_dead_writers_do_not_disturb(runs, autoencoder):
    """A torn checkpoint that looks newer than the last complete one is not taken for one."""
    workdir = runs / "torn"
    shutil.copytree(autoencoder, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    torn = workdir / "checkpoints" / f"{STEPS}.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / str(STEPS - EVERY) / "params", torn / "params")
    (workdir / "config.tmp").write_text("{")
    lines = Training("autoencoder", workdir).finish()
    assert lines == [f"ldm-jax: resumed at step {STEPS - EVERY} of {STEPS}"]
    assert not torn.exists()
    assert_equal_runs(workdir, autoencoder)


@pytest.mark.slow
def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(runs, autoencoder):
    workdir = runs / "diverged"
    shutil.copytree(autoencoder, workdir)
    lines = Training(
        "autoencoder",
        workdir,
        f"--config.train.steps={2 * STEPS}",
        "--config.train.learning_rate=1e30",
    ).finish(expected_status=2)
    assert lines[0] == f"ldm-jax: resumed at step {STEPS} of {2 * STEPS}"
    found = f"ldm-jax: step {STEPS + 1}: param_norm is inf"
    assert lines[1] == f"{found}; going back to see in which layer"
    assert lines[2].startswith(f"{found}; expected a finite number. Try ")
    assert lines[3:] == []
    assert max(complete_steps(workdir)) == STEPS
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _last_checkpoint(workdir)["params"]
    )
    params, step = restore_params(workdir, abstract, ema=False)
    assert step == STEPS
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_another_task_in_the_same_workdir_is_refused(runs, autoencoder):
    before = (autoencoder / "config.json").read_text()
    lines = Training("autoencoder", autoencoder, "--config.task.model.channels=16").finish(2)
    assert lines == [
        f"ldm-jax: config.task.model.channels=16, but {autoencoder}/config.json was trained with "
        "8. Use that value, or a new --workdir."
    ]
    assert (autoencoder / "config.json").read_text() == before


def test_a_finished_run_has_nothing_left_to_do(autoencoder):
    before = {p: p.stat().st_mtime_ns for p in (autoencoder / "checkpoints").rglob("*")}
    Training("autoencoder", autoencoder).finish()
    assert {p: p.stat().st_mtime_ns for p in (autoencoder / "checkpoints").rglob("*")} == before
    assert Checkpoints(autoencoder).latest_step() == STEPS
