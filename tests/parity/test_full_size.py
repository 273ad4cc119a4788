"""Stable Diffusion 1 at full size, random weights: parity, conversions and their memory."""

import json
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")
import folders
import transformers
from compare import assert_close, nchw, nhwc, randomize

from ldm_jax.core.types import Conditioning
from ldm_jax.interop.safetensors_io import SafetensorsFile
from ldm_jax.train.exchange import open_model

pytestmark = pytest.mark.slow

UNET_PARAMETERS, VAE_PARAMETERS, CLIP_PARAMETERS = 859_520_964, 83_653_863, 123_060_480
UNET_BYTES = 4 * UNET_PARAMETERS
FIGURES = logging.getLogger("figures")  # shown by `make test-slow`
UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of Stable Diffusion 1's sizes and file names, saved by diffusers."""
    root = tmp_path_factory.mktemp("full")
    tokenizer = folders.clip_tokenizer(root / "made" / "tokenizer")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**UNET)
        vae = diffusers.AutoencoderKL(**VAE)
        text = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                vocab_size=49408,
            )
        )
    for seed, module in enumerate((unet, vae, text)):
        module.to_empty(device="cpu")
        randomize(module, seed)
    positions = torch.arange(77)[None]
    for name, buffer in text.named_buffers():
        assert name.endswith("position_ids")
        buffer.copy_(positions)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=folders.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "sd")
    return root / "sd"


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_unet(folder):
    theirs = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1, 64, 64, 4)).astype(np.float32)
    context = rng.normal(size=(1, 77, 768)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(
            nchw(z), torch.tensor([981.0]), encoder_hidden_states=torch.from_numpy(context)
        ).sample
    del theirs
    model = open_model(folder)
    params = model.load("unet")
    assert count(params) == UNET_PARAMETERS
    got = jax.jit(model.module("unet").apply)(
        {"params": params}, jnp.asarray(z), jnp.array([981.0]), Conditioning(jnp.asarray(context))
    )
    FIGURES.info("U-Net: %.1e of the largest output", assert_close(got, nhwc(expected), "U-Net"))
    model.close()


def test_first_stage(folder):
    theirs = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    x = np.random.default_rng(1).uniform(-1, 1, size=(1, 256, 256, 3)).astype(np.float32)
    model = open_model(folder)
    params, ours = model.load("first_stage"), model.module("first_stage")
    assert count(params) == VAE_PARAMETERS
    with torch.no_grad():
        mean = theirs.encode(nchw(x)).latent_dist.mean
        images = theirs.decode(mean).sample
    got = jax.jit(lambda p, x: ours.apply({"params": p}, x, method="encode").mean)(params, x)
    FIGURES.info("encoder: %.1e of the largest output", assert_close(got, nhwc(mean), "encoder"))
    z = jnp.asarray(nhwc(mean))
    got = jax.jit(lambda p, z: ours.apply({"params": p}, z, method="decode"))(params, z)
    FIGURES.info("decoder: %.1e of the largest output", assert_close(got, nhwc(images), "decoder"))
    model.close()


def run_convert(*arguments):
    """Returns the peak memory of the command in bytes, of a process of its own."""
    # Linux' own account: getrusage would count what this process held when it forked.
    code = (
        "import re, sys, json; from ldm_jax.cli.main import main;"
        "status = main(sys.argv[1:]);"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1];"
        "print(json.dumps([status, int(peak)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    status, peak = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    return peak * 1024


def test_conversions_stream_and_come_back_bit_by_bit(folder, tmp_path):
    compvis, own, again = tmp_path / "sd.safetensors", tmp_path / "own", tmp_path / "again"
    peaks = {
        "diffusers to compvis": run_convert(folder, compvis, "--to", "compvis"),
        "compvis to ldm_jax": run_convert(
            compvis, own, "--to", "ldm_jax", "--tokenizer", folder / "tokenizer"
        ),
        "ldm_jax to diffusers": run_convert(own, again, "--to", "diffusers"),
    }
    for name, peak in peaks.items():
        FIGURES.info("%s: %.2f GiB, %.2f of the U-Net", name, peak / 2**30, peak / UNET_BYTES)
    for name in (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        with (
            SafetensorsFile(folder / f"{name}.safetensors") as before,
            SafetensorsFile(again / f"{name}.safetensors") as after,
        ):
            renamed = {key.removeprefix("text_model."): key for key in after.keys()}
            assert set(before.keys()) == set(renamed)
            for key in before.keys():
                assert before[key].tobytes() == after[renamed[key]].tobytes(), key
    for name, peak in peaks.items():
        assert peak < 1.5 * UNET_BYTES, name
