"""Tiny trained runs, made once through the commands that users type."""

from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from tiny import random_weights

from ldm_jax.cli.main import main
from ldm_jax.pipeline import Pipeline

TINY = str(Path(__file__).parent / "tiny.py")


class Runs(NamedTuple):
    """Workdirs after three steps each, shared by all tests: read them, never write."""

    autoencoder: Path
    text: Path
    classes: Path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs = Runs(root / "autoencoder", root / "text", root / "class")
    first_stage = f"--config.task.first_stage.workdir={runs.autoencoder}"
    for name, workdir in zip(("autoencoder", "text", "class"), runs, strict=True):
        extra = [] if name == "autoencoder" else [first_stage]
        command = ["train", "--config", f"{TINY}:{name}", "--workdir", str(workdir), *extra]
        assert main(command) == 0
    return runs


@pytest.fixture(scope="session")
def vivid(runs):
    """The pipelines of text and classes with random weights, so that conditions show.

    After three steps of training they move an image by 1e-5.
    """
    return {
        name: _vivid(Pipeline.from_checkpoint(getattr(runs, name))) for name in ("text", "classes")
    }


def _vivid(pipeline):
    params = jax.tree.map(
        lambda value, x: jax.device_put(value, x.sharding),
        random_weights(pipeline._params),
        pipeline._params,
    )
    return Pipeline(
        pipeline.config, pipeline.task, params, pipeline._frozen, pipeline.mesh, pipeline.step
    )
