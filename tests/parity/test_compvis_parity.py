"""CompVis' layout against what diffusers' own converters make of it, and its fused attention."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

import folders
from compare import assert_close

from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile
from ldm_jax.interop.unet_names import compvis_unet
from ldm_jax.models import UNet
from ldm_jax.nn.attention import SelfAttentionBlock
from ldm_jax.nn.normalization import EPS_UNET
from ldm_jax.train.convert import convert
from ldm_jax.train.exchange import open_model

converters = importlib.import_module("diffusers.loaders.single_file_utils")


@pytest.fixture(scope="module", params=[1, 2])
def both(request, tmp_path_factory):
    """Returns a pipeline of diffusers, and our CompVis file of it as torch tensors."""
    folder = tmp_path_factory.mktemp("compvis")
    pipeline, source = folders.stable_diffusion(folder, request.param)
    model = open_model(source)
    convert(model, folder / "model.safetensors", "compvis")
    model.close()
    with SafetensorsFile(folder / "model.safetensors") as file:
        return pipeline, {name: torch.from_numpy(file[name]) for name in file.keys()}


def assert_same_state(converted, module):
    """Every tensor of a torch module is there, to the bit, and nothing else."""
    expected = module.state_dict()
    assert set(converted) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(converted[name].reshape(tensor.shape), tensor), name


def test_diffusers_reads_our_unet(both):
    pipeline, file = both
    converted = converters.convert_ldm_unet_checkpoint(dict(file), dict(pipeline.unet.config))
    assert_same_state(converted, pipeline.unet)


def test_diffusers_reads_our_first_stage(both):
    pipeline, file = both
    converted = converters.convert_ldm_vae_checkpoint(dict(file), dict(pipeline.vae.config))
    assert_same_state(converted, pipeline.vae)


def test_diffusers_reads_our_text_encoder(both):
    pipeline, file = both
    encoder = pipeline.text_encoder
    if "cond_stage_model.model.ln_final.weight" in file:
        # Its converter skips the last of 24 layers, and reads a projection's width.
        file = {**file, "cond_stage_model.model.text_projection": torch.zeros(32, 32)}
        converted = converters.convert_open_clip_checkpoint(
            encoder, dict(file), prefix="cond_stage_model.model."
        )
    else:
        converted = converters.convert_ldm_clip_checkpoint(dict(file))
    short = {name.removeprefix("text_model."): x for name, x in converted.items()}
    short = {name: x for name, x in short.items() if name in encoder.state_dict()}
    assert_same_state(short, encoder)


def legacy_attention(qkv, heads):
    """Returns CompVis' QKVAttentionLegacy of [b, 3C, n], written from the facts sheet, 2.2."""
    b, channels, n = qkv.shape
    d = channels // (3 * heads)
    out = torch.empty(b, heads * d, n)
    for h in range(heads):
        q, k, v = (qkv[:, h * 3 * d + j * d : h * 3 * d + (j + 1) * d] for j in range(3))
        logits = torch.einsum("bct,bcs->bts", q * d**-0.25, k * d**-0.25)
        out[:, h * d : (h + 1) * d] = torch.einsum("bts,bcs->bct", logits.softmax(-1), v)
    return out


@pytest.mark.parametrize("heads", [{"num_heads": 4}, {"num_head_channels": 8}])
def test_our_attention_is_that_of_the_fused_qkv(heads):
    model = UNet(4, 32, (1, 2), 1, attention_factors=(2,), num_groups=8, **heads)
    z = jnp.zeros((1, 8, 8, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), z, jnp.zeros((1,)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.2, shapes)
    block = params["down_1_attn_0"]
    entries = make_entries({"down_1_attn_0": block}, compvis_unet(model))
    flat = flatten(params)
    theirs = {e.theirs: torch.from_numpy(e.to_theirs([flat[p] for p in e.ours])) for e in entries}
    prefix = "input_blocks.3.1."
    assert theirs[f"{prefix}qkv.weight"].shape == (3 * 64, 64, 1)

    x = torch.from_numpy(rng.normal(size=(2, 64, 4, 4)).astype(np.float32))
    normed = torch.nn.functional.group_norm(
        x, 8, theirs[f"{prefix}norm.weight"], theirs[f"{prefix}norm.bias"], eps=1e-5
    ).reshape(2, 64, 16)
    conv1d = torch.nn.functional.conv1d
    qkv = conv1d(normed, theirs[f"{prefix}qkv.weight"], theirs[f"{prefix}qkv.bias"])
    out = legacy_attention(qkv, model.heads(64))
    out = conv1d(out, theirs[f"{prefix}proj_out.weight"], theirs[f"{prefix}proj_out.bias"])
    expected = x + out.reshape(x.shape)

    layer = SelfAttentionBlock(model.heads(64), EPS_UNET, num_groups=8)
    got = jax.jit(layer.apply)({"params": block}, jnp.asarray(x.numpy().transpose(0, 2, 3, 1)))
    assert_close(got, expected.numpy().transpose(0, 2, 3, 1), "attention")
