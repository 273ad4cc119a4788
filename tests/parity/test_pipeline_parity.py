"""Folders that diffusers saved, sampled there and here from the same latents."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

import folders
from compare import nchw

from ldm_jax.pipeline import Pipeline
from ldm_jax.train.exchange import read_model_config

PROMPTS = ["a red cat", "the blue dog on the moon"]
STEPS = 50
# Of pixels in [-1, 1], after 50 steps.
TOLERANCE = 2e-3


def ours(folder, steps=STEPS, **kwargs):
    """Returns our pixels in [-1, 1], float."""
    config = read_model_config(folder)
    with config.unlocked():
        config.sample.steps = steps
        config.sample.per_device_batch = 2
    pipeline = Pipeline.from_checkpoint(folder, config=config)
    return np.clip(pipeline(output="float32", **kwargs), -1, 1)


def noise(channels):
    return np.random.default_rng(7).normal(size=(2, 8, 8, channels)).astype(np.float32)


def assert_same_images(got, expected):
    """Both [n, H, W, C] in [-1, 1]; images that hardly vary would prove nothing."""
    assert expected.std() > 0.05
    assert np.abs(expected).max() < 1 or np.mean(np.abs(expected) < 1) > 0.5
    difference = np.abs(got - expected).max()
    assert difference <= TOLERANCE, f"differs by {difference:.2e}"


@pytest.mark.parametrize("version", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stable_diffusion(version, tmp_path):
    theirs, folder = folders.stable_diffusion(tmp_path, version)
    z_T = noise(4)
    expected = theirs(
        PROMPTS,
        latents=nchw(z_T),
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="np",
    ).images
    got = ours(folder, prompts=PROMPTS, latents=z_T)
    assert_same_images(got, 2 * expected - 1)


def test_steps_that_do_not_divide_the_thousand(tmp_path):
    theirs, folder = folders.stable_diffusion(tmp_path)
    z_T = noise(4)
    for steps in (15, 30):
        expected = theirs(
            PROMPTS, latents=nchw(z_T), num_inference_steps=steps, output_type="np"
        ).images
        got = ours(folder, steps, prompts=PROMPTS, latents=z_T)
        assert_same_images(got, 2 * expected - 1)


def test_the_schedulers_of_published_folders_are_read_as_their_pipelines_do(tmp_path):
    theirs, folder = folders.stable_diffusion(tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    # What a plain DDIMScheduler saves: the pipeline overrides offset and clipping.
    file.write_text(json.dumps({**config, "steps_offset": 0, "clip_sample": True}))
    z_T = noise(4)
    expected = theirs(PROMPTS, latents=nchw(z_T), num_inference_steps=10, output_type="np").images
    assert_same_images(ours(folder, 10, prompts=PROMPTS, latents=z_T), 2 * expected - 1)
    file.write_text(json.dumps({**config, "_class_name": "PNDMScheduler", "skip_prk_steps": True}))
    pipeline = Pipeline.from_checkpoint(folder)
    assert pipeline.notes == ("sampling will use ddim; the folder's own sampler is PNDMScheduler",)


def test_a_tokenizer_named_in_the_config_is_one_given_as_a_flag(tmp_path):
    _, folder = folders.stable_diffusion(tmp_path)
    shutil.move(folder / "tokenizer", tmp_path / "tokenizer")
    config = read_model_config(folder)
    with config.unlocked(), config.ignore_type():
        config.data.tokenizer.path = str(tmp_path / "tokenizer")
        config.sample.steps = 4
    named = Pipeline.from_checkpoint(folder, config=config)(["a"], output="float32")
    with config.unlocked():
        del config.data.tokenizer["path"]
    given = Pipeline.from_checkpoint(folder, config=config, tokenizer=tmp_path / "tokenizer")
    np.testing.assert_array_equal(named, given(["a"], output="float32"))
    assert any(given.task.conditioner.null_tokens)


def test_latent_diffusion_text_to_image(tmp_path):
    theirs, folder = folders.text_to_image(tmp_path)
    z_T = noise(4)
    # This class takes a latent to be an eighth of the image.
    expected = theirs(
        PROMPTS,
        latents=nchw(z_T),
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="np",
    ).images
    got = ours(folder, prompts=PROMPTS, latents=z_T)
    assert_same_images(got, 2 * expected - 1)


@pytest.mark.slow  # text and classes are compared in `make test`
def test_latent_diffusion_without_condition(tmp_path, monkeypatch):
    theirs, folder = folders.unconditional(tmp_path)
    z_T = noise(3)
    give_noise(monkeypatch, theirs, z_T)
    expected = theirs(batch_size=2, num_inference_steps=STEPS, output_type="np").images
    got = ours(folder, num_images=2, latents=z_T)
    assert_same_images(got, 2 * expected - 1)


@pytest.mark.slow  # text and classes are compared in `make test`
def test_latent_diffusion_super_resolution(tmp_path, monkeypatch):
    theirs, folder = folders.super_resolution(tmp_path)
    z_T = noise(3)
    give_noise(monkeypatch, theirs, z_T)
    low = np.random.default_rng(8).uniform(-1, 1, size=(2, 8, 8, 3)).astype(np.float32)
    expected = theirs(nchw(low), num_inference_steps=STEPS, output_type="np").images
    got = ours(folder, conditions={"low_res": low}, latents=z_T)
    assert_same_images(got, 2 * expected - 1)


def give_noise(monkeypatch, pipeline, z_T):
    """Gives a pipeline without the argument `latents` its noise."""
    import sys

    module = sys.modules[type(pipeline).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: nchw(z_T))
