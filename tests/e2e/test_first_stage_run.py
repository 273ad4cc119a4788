"""A first stage trained through the command: what it shows of itself, and what it refuses."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.interop import inception_weights
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models.inception import Inception

TINY = f"{Path(__file__).parent / 'tiny.py'}:adversarial"
METRICS = "--config.evaluation.metrics=('psnr', 'ssim', 'lpips')"


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file of weights by PyTorch's names; features of random ones tell images apart too."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8)
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    entries = make_entries(shapes, inception_weights._torch_cell)
    infos = {entry.theirs: TensorInfo(entry.their_shape, np.dtype(np.float32)) for entry in entries}
    with SafetensorsWriter(path, infos) as writer:
        for name, (shape, _) in infos.items():
            fan_in = max(1, int(np.prod(shape[1:])))
            values = rng.normal(0, (2 / fan_in) ** 0.5, shape) if len(shape) > 1 else np.ones(shape)
            writer.write(name, values.astype(np.float32))
    assert len(flatten(shapes)) == len(infos)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("first_stage") / "run"
    assert train(workdir, METRICS) == 0
    return workdir


def train(workdir, *overrides):
    return main(["train", "--config", TINY, "--workdir", str(workdir), *overrides])


def parameters(workdir):
    """Returns the averages that the start of a run takes, by path."""
    with ocp.StandardCheckpointer() as checkpointer:
        (item,) = (workdir.absolute() / "checkpoints").glob("[0-9]*/ema_params")
        return flatten(checkpointer.restore(item))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_held_out_images_are_scored(run):
    (row,) = rows(run / "evaluation.jsonl")
    assert row["step"] == 3
    assert set(row) == {"step", "psnr", "ssim", "lpips", "code_usage", "code_perplexity"}
    assert 1 < row["psnr"] < 40
    assert -1 < row["ssim"] < 1
    assert 0 < row["lpips"] < 3
    assert 1 / 16 <= row["code_usage"] <= 1
    assert 1 <= row["code_perplexity"] <= 16


def test_a_lost_evaluation_is_done_again(run, tmp_path):
    """As after a kill between saving and evaluating."""
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    (workdir / "evaluation.jsonl").unlink()
    assert train(workdir, METRICS) == 0
    assert rows(workdir / "evaluation.jsonl") == rows(run / "evaluation.jsonl")
    assert train(workdir, METRICS) == 0
    assert len(rows(workdir / "evaluation.jsonl")) == 1


@pytest.mark.slow
def test_rfid_is_scored_where_inception_is_given(tmp_path, inception):
    weights = f"--config.train.inception_weights={inception}"
    assert train(tmp_path / "run", "--config.evaluation.metrics=('rfid',)", weights) == 0
    (row,) = rows(tmp_path / "run" / "evaluation.jsonl")
    assert row["rfid"] > 0
    assert {"psnr", "lpips"}.isdisjoint(row)


def test_the_grid_shows_input_reconstruction_and_difference(run):
    picture = np.asarray(Image.open(run / "reconstructions" / "00000003.png")).astype(int)
    # Four images, three triples a row: 9 columns and 2 rows of 16 pixels and a border of 2.
    assert picture.shape == (2 * 18 + 2, 9 * 18 + 2, 3)
    image, found, difference = (picture[2:18, 2 + 18 * k : 18 + 18 * k] for k in range(3))
    np.testing.assert_array_equal(difference, np.clip(128 + found - image, 0, 255))
    assert np.any(difference != 128)


def test_both_losses_and_the_weight_are_logged(run):
    names = set(rows(run / "metrics.jsonl")[-1])
    wanted = {"loss", "nll", "l1", "psnr", "g_loss", "d_weight", "codebook", "grad_norm"}
    wanted |= {"code_usage", "code_perplexity"}
    assert {f"generator/{name}" for name in wanted} <= names
    assert {f"discriminator/{name}" for name in ("loss", "logits_real", "logits_fake")} <= names


def test_a_run_starts_from_another_with_a_new_discriminator(run, tmp_path, capfd):
    start = f"--config.train.init_from={run}"
    assert train(tmp_path / "run", start, "--config.evaluation.every=0") == 2
    assert "would replace the codebook of config.train.init_from. Legal: uniform" in (
        capfd.readouterr().err
    )
    tiny_step = ("--config.train.steps=1", "--config.train.learning_rate=1e-30")
    overrides = ("--config.task.code_init=uniform", "--config.task.revive_below=0.0", start)
    assert train(tmp_path / "run", "--config.evaluation.every=0", *tiny_step, *overrides) == 0
    origin, found = (parameters(workdir) for workdir in (run, tmp_path / "run"))
    assert origin.keys() == found.keys()
    for name, x in origin.items():
        if name.startswith("autoencoder/"):
            np.testing.assert_allclose(found[name], x, atol=1e-6, err_msg=name)
    conv = "discriminator/conv_1/kernel"
    assert np.abs(np.asarray(found[conv]) - origin[conv]).max() > 1e-3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.evaluation.metrics=('fid',)"], "evaluation.metrics: got 'fid'"),
        (["--config.evaluation.every=-1"], "evaluation.every=-1: legal is 0 (never) or more"),
        (["--config.evaluation.images=0"], "evaluation.images=0: legal is 1 or more"),
        (["--config.data.holdout=0"], "there is nothing to evaluate on. Legal: --config.data.h"),
        (["--config.data.holdout=64"], "holdout=64, of 64 examples. Legal: 0 to 63"),
        (["--config.data.holdout=x"], "data.holdout='x': legal is a whole number, 0 or more"),
        (["--config.data.evaluation_source.name=x"], "evaluation_source.name: got 'x'"),
        (["--config.evaluation.metrics=('rfid',)"], "inception_weights: not given, which rfid"),
        (
            ["--config.evaluation.metrics=('lpips',)", "--config.train.lpips_weights=none.ckpt"],
            "none.ckpt",
        ),
        (["--config.task.perceptual_weight=1.0", "--config.train.lpips_weights=x.pth"], "x.pth"),
        (
            ["--config.evaluation.metrics=('rfid',)", "--config.train.inception_weights=no.pth"],
            "no.pth",
        ),
        (["--config.task.discriminator.num_layers=3"], "are too small. Legal: fewer layers"),
        (["--config.task.l1_weight=2.0"], "unknown field 'l1_weight'"),
        (["--config.train.init_from=nowhere"], "would replace the codebook"),
        (["--config.train.init_from=none", "--config.task.code_init=uniform"], "none"),
        (
            ["--config.data.evaluation_source.name=folder"],
            "data.evaluation_source.path: not set",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(overrides, message, tmp_path, capfd):
    workdir = tmp_path / "run"
    assert main(["train", "--config", TINY, "--workdir", str(workdir), *overrides]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not workdir.exists()


def test_diffusion_models_are_not_evaluated_while_they_train(tmp_path, capfd):
    text = TINY.replace("adversarial", "text")
    command = ["train", "--config", text, "--workdir", str(tmp_path / "run")]
    assert main([*command, "--config.evaluation.every=1"]) == 2
    assert "only first stages are evaluated while they train. Legal: 0" in capfd.readouterr().err
