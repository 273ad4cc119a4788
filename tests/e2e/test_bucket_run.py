"""Training on images of several aspect ratios, through the command that users type."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.main import main
from ldm_jax.data import SOURCES
from ldm_jax.train.checkpoint import Checkpoints
from ldm_jax.train.loop import train

TINY = str(Path(__file__).parent / "tiny.py")
BUCKETS = "--config.data.buckets=((16,16),(8,24))"


class Pictures:
    """Squares and wide images, with captions, maps and masks of the same shape."""

    class_names = None

    def __repr__(self):
        return "Pictures()"

    def __len__(self):
        return 20

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        shape = self.size(index)
        image = rng.integers(0, 256, (*shape, 3), np.uint8)
        text = "a red cross at the top left" if index % 3 else ""
        segmentation = (image[..., 0] // 64).astype(np.uint8)
        mask = (image[..., 1] > 128).astype(np.uint8)
        return {"image": image, "text": text, "segmentation": segmentation, "mask": mask}

    def size(self, index):
        return (20, 20) if index % 2 else (10, 31)


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setitem(SOURCES, "pictures", Pictures)


def settings(name, first_stage=None, *overrides):
    config = load_config(f"{TINY}:{name}")
    with config.unlocked(), config.ignore_type():
        config.data.source = {"name": "pictures"}
        config.data.buckets = ((16, 16), (8, 24))
        config.data.flip_probability = 0.5
    config.train.checkpoint_every = 2
    if first_stage is not None:
        config.task.first_stage.workdir = str(first_stage)
        config.sample.grid_images = 0
    apply_overrides(config, overrides)
    return config


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", [pytest.param("autoencoder", marks=pytest.mark.slow), "text"])
def test_a_run_on_two_buckets_resumes_to_the_same_bits(pictures, runs, tmp_path, name):
    first_stage = None if name == "autoencoder" else runs.autoencoder
    whole = train(settings(name, first_stage, "--config.train.steps=4"), tmp_path / "whole")
    # As if it had been killed after step 2.
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "4")
    assert Checkpoints(tmp_path / "parts").latest_step() == 2
    parts = train(settings(name, first_stage, "--config.train.steps=4"), tmp_path / "parts")
    for got, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))
    for workdir in ("whole", "parts"):
        losses = [row["loss"] for row in rows(tmp_path / workdir)]
        assert len(losses) == 4
        assert np.all(np.isfinite(losses))
    assert Checkpoints(tmp_path / "whole").latest_step() == 4
    if name == "autoencoder":  # grids are of squares of image_size
        grid = np.asarray(Image.open(next((tmp_path / "whole").glob("*/00000004.png"))))
        assert (grid.shape[0] - 2) % 18 == 0
    # Both sizes were trained on: 10 examples each, batches of 8, so 1 + 1 of the first epoch.
    state = json.loads(
        next((tmp_path / "whole" / "checkpoints" / "4" / "data").glob("*")).read_text()
    )
    assert state["bucket_counts"] == [10, 10]


@pytest.mark.slow  # another run on buckets is in `make test`
def test_a_source_s_masks_condition_a_run_on_two_buckets(pictures, runs, tmp_path):
    """Their null is a map of squares, which must also stand for the others."""
    conditioner = {
        "name": "identity",
        "key": "masked_image",
        "shape": (8, 8, 3),
        "route": "concat",
    }
    config = settings("text", runs.autoencoder, "--config.train.steps=2")
    with config.unlocked(), config.ignore_type():
        del config.data.tokenizer
        config.task.conditioner = conditioner
        config.task.condition_drop_rate = 0.5
    train(config, tmp_path / "run")
    assert np.all(np.isfinite([row["loss"] for row in rows(tmp_path / "run")]))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["--config.data.buckets=((16,16),(8,25))"], "image size 25: the model takes multiples of"),
        (["--config.data.buckets=((16,16),(8,8))"], "data.buckets: (16, 16) and (8, 8) have one "),
        (["--config.data.buckets=(16,16)"], "config.data.buckets: got (16, 16), expected a tuple"),
        (["--config.data.flip_captions=never"], "data.flip_captions: got 'never'"),
        (
            [BUCKETS, "--config.data.latent_cache=cache"],
            "config.data.buckets: a latent cache holds one size of all images. Legal: no buckets",
        ),
        (
            [
                BUCKETS,
                "--config.data.derive.low.name=low_res",
                "--config.data.derive.low.factor=16",
            ],
            "low_res factor=16 must divide image_size=8.",
        ),
    ],
    ids=lambda x: x[-1][:40] if isinstance(x, list) else "",
)
def test_wrong_buckets_take_one_line(runs, capfd, tmp_path, overrides, expected):
    command = ["train", "--config", f"{TINY}:text", "--workdir", str(tmp_path / "run")]
    command += [f"--config.task.first_stage.workdir={runs.autoencoder}", *overrides]
    assert main(command) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "run").exists()


def test_encoding_and_classifiers_take_one_size(runs, capfd, tmp_path):
    first_stage = f"--config.task.first_stage.workdir={runs.autoencoder}"
    encode = ["encode", "--config", f"{TINY}:text", "--out", str(tmp_path / "cache"), first_stage]
    assert main([*encode, BUCKETS]) == 2
    assert "config.data.buckets: a latent cache holds one size" in capfd.readouterr().err
    train_classifier = ["train", "--config", f"{TINY}:classifier", "--workdir", str(tmp_path / "c")]
    assert main([*train_classifier, first_stage, BUCKETS]) == 2
    assert "a latent_classifier reads latents of one size. Legal: no" in capfd.readouterr().err
