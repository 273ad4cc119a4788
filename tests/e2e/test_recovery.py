"""Workdirs that lost something, runs that meet, and files that were torn."""

import fcntl
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.checkpoint import read_config

TINY = str(Path(__file__).parent / "tiny.py")


@pytest.fixture
def text(runs, tmp_path):
    """A copy of the trained text model, to spoil."""
    return Path(shutil.copytree(runs.text, tmp_path / "text"))


def train(capfd, workdir, first_stage, *overrides):
    """Returns (status, the lines on standard error that are ours)."""
    capfd.readouterr()
    command = ["train", "--config", f"{TINY}:text", "--workdir", str(workdir)]
    status = main([*command, f"--config.task.first_stage.workdir={first_stage}", *overrides])
    err = capfd.readouterr().err
    return status, [line for line in err.splitlines() if line.startswith("ldm-jax: ")]


def test_two_runs_in_one_workdir(runs, text, capfd):
    with (text / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        status, lines = train(capfd, text, runs.autoencoder)
    assert (status, len(lines)) == (2, 1)
    assert "another run is training there. Legal: wait until it ends, or another" in lines[0]
    assert train(capfd, text, runs.autoencoder)[0] == 0


def test_a_run_without_its_first_stage_stops(runs, text, capfd):
    shutil.rmtree(text / "frozen")
    status, lines = train(capfd, text, runs.autoencoder, "--config.train.steps=4")
    assert (status, len(lines)) == (2, 1)
    assert "its frozen networks, the folder frozen, are gone. Legal: put it back" in lines[0]
    assert main(["sample", "--workdir", str(text), "--prompt", "a"]) == 2
    assert "the folder frozen, are gone" in capfd.readouterr().err
    (text / "frozen").mkdir()
    assert main(["sample", "--workdir", str(text), "--prompt", "a"]) == 2
    assert "frozen: damaged, or not of this configuration" in capfd.readouterr().err


def test_a_run_without_its_configuration_stops(runs, text, capfd):
    (text / "config.json").unlink()
    status, lines = train(capfd, text, runs.autoencoder, "--config.task.parameterization=v")
    assert (status, len(lines)) == (2, 1)
    assert "config.json: not found" in lines[0]


def test_a_refused_resume_leaves_the_configuration(runs, text, capfd):
    before = (text / "config.json").read_text()
    steps = "--config.train.steps=4"
    status, _ = train(capfd, text, runs.autoencoder, steps, "--config.train.batch_size=16")
    assert status == 2
    assert (text / "config.json").read_text() == before


def test_another_first_stage_is_not_read_and_said_so(runs, text, capfd):
    status, lines = train(capfd, text, "/none/such", "--config.train.steps=4")
    assert status == 0
    assert lines[0] == (
        "ldm-jax: config.task.first_stage.workdir=/none/such is not read: this run keeps its own "
        f"copy of the first stage, from {runs.autoencoder}"
    )
    assert read_config(text).task.first_stage.workdir == str(runs.autoencoder)


@pytest.mark.slow
def test_the_words_of_a_vocabulary_file_are_kept(runs, tmp_path, capfd):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("red\nblue\n")
    overrides = [f"--config.data.tokenizer.vocabulary={vocabulary}", "--config.train.steps=1"]
    overrides += ["--config.task.conditioner.vocab_size=4", "--config.sample.grid_images=0"]
    assert train(capfd, tmp_path / "run", runs.autoencoder, *overrides)[0] == 0
    before = Pipeline.from_checkpoint(tmp_path / "run")(["red"])
    vocabulary.write_text("blue\nred\n")
    assert (Pipeline.from_checkpoint(tmp_path / "run")(["red"]) == before).all()
    status, lines = train(capfd, tmp_path / "run", runs.autoencoder, *overrides)
    assert status == 2
    assert "config.data.tokenizer.vocabulary=('blue', 'red'), but " in lines[0]


def test_images_that_are_no_numbers_are_refused(text, tmp_path, capfd):
    pipeline = Pipeline.from_checkpoint(text)
    pipeline._params = jax.tree.map(lambda leaf: leaf * jnp.nan, pipeline._params)
    with pytest.raises(UserError, match=r"image 7: not a number. Legal: a smaller sample.guidance"):
        pipeline(["a"], first_index=7)
    out = tmp_path / "out"
    command = ["sample", "--workdir", str(text), "--prompt", "a", "--out", str(out)]
    assert main([*command, "--config.sample.guidance_scale=1e999"]) == 2
    assert "config.sample.guidance_scale=inf: legal is a finite" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("record", ["", "{}", '{"num_images": '])
def test_a_torn_record_does_not_cost_the_images(text, tmp_path, record):
    out = tmp_path / "out"
    out.mkdir()
    (out / "samples.json").write_text(record)
    command = ["sample", "--workdir", str(text), "--prompt", "a", "--out", str(out)]
    assert main(command) == 0
    assert json.loads((out / "samples.json").read_text())["num_images"] == 1
    assert (out / "00000.png").is_file()


def test_a_folder_that_cannot_be_made(runs, capfd):
    status, lines = train(capfd, "/proc/none/such", runs.autoencoder)
    assert (status, len(lines)) == (2, 1)


def test_lists_are_asked_for(text):
    pipeline = Pipeline.from_checkpoint(text)
    assert len(pipeline("a red circle")) == 1  # one text is a list of one
    with pytest.raises(UserError, match=r"num_images=5: got 2 prompts, one image each"):
        pipeline(["a", "b"], num_images=5)
