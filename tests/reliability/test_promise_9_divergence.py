"""Promise 9: a loss that is no number stops the run, keeps the last good checkpoint, and is told.

`tests/unit/train/test_diverged.py` has what is told where going back finds nothing, or fails.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.train.checkpoint import complete_steps

TINY = str(Path(__file__).parents[1] / "e2e" / "tiny.py")
# The next update makes the parameters 1e16, whose squares are numbers; the loss after it is none.
DIVERGING = "--config.train.learning_rate=1e16"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images; the n-th is of the grey level 4 n."""
    folder = tmp_path_factory.mktemp("images")
    for n in range(40):
        Image.new("RGB", (16, 16), (4 * n,) * 3).save(folder / f"{n:02d}.png")
    return folder


def train(capfd, images, workdir, *overrides):
    """Returns (status, the last line on standard error that is ours)."""
    capfd.readouterr()
    command = ["train", "--config", f"{TINY}:autoencoder", "--workdir", str(workdir)]
    source = ["--config.data.source.name=folder", f"--config.data.source.path={images}"]
    status = main([*command, *source, "--config.sample.grid_images=0", *overrides])
    lines = capfd.readouterr().err.splitlines()
    return status, [line for line in lines if line.startswith("ldm-jax: ")]


def test_examples_and_layers_of_the_first_bad_step(images, tmp_path, capfd):
    """The same is found whether a step is looked at at once or long after it."""
    records = []
    assert train(capfd, images, tmp_path / "at_once", "--config.train.checkpoint_every=2")[0] == 0
    shutil.copytree(tmp_path / "at_once", tmp_path / "later")
    for name, every in (("at_once", 1), ("later", 8)):
        workdir = tmp_path / name
        before = complete_steps(workdir)
        often = [f"--config.train.{k}={every}" for k in ("log_every", "checkpoint_every")]
        more = [DIVERGING, *often, "--config.train.steps=40", "--config.train.sample_every=40"]
        status, lines = train(capfd, images, workdir, *more)
        (path,) = (workdir / "diverged").iterdir()
        record = json.loads(path.read_text())
        assert (status, record["step"]) == (2, 5)
        assert lines[-1].startswith(f"ldm-jax: step {record['step']}: ")
        assert lines[-1].endswith(f" Its examples, and norms by layer, are in {path}.")
        assert path.name == f"{record['step']:08d}.json"
        assert complete_steps(workdir)[-1] == (4 if every == 1 else before[-1])
        records.append(record)
    at_once, later = records
    assert later["repeated"]
    assert at_once["repeated"]
    assert later["repeated_from_step"] < at_once["repeated_from_step"]
    for key in ("step", "found", "examples", "layers"):
        assert at_once[key] == later[key], key
    rows = {row["step"]: row for row in later["metrics"]}
    assert at_once["metrics"][-1] == rows[at_once["step"]]
    _check_layers(at_once["layers"])
    _check_examples(at_once, images)


def _check_layers(layers):
    found = {key: [layer[key] for layer in layers.values()] for key in ("before", "gradient")}
    assert len(layers) > 20
    assert all(math.isfinite(norm["norm"]) for norm in found["before"])
    assert all(norm["not_finite"] == 0 for norm in found["before"])
    bad = [layer for layer in layers.values() if not _finite(layer)]
    assert bad


def _finite(layer):
    return all(
        isinstance(norm["norm"], float) and norm["not_finite"] == 0 for norm in layer.values()
    )


def _check_examples(record, images):
    names = [example["name"] for example in record["examples"]]
    assert names == [str(images / f"{example['index']:02d}.png") for example in record["examples"]]
    assert len(set(names)) == 8
