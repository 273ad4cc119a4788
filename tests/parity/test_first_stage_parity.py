"""Both first stages against diffusers, block by block, random weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from compare import assert_close, nchw, nhwc, randomize, record

from ldm_jax.core.config import build
from ldm_jax.interop.diffusers import read_diffusers
from ldm_jax.interop.first_stage_names import diffusers_block
from ldm_jax.interop.foreign import read_parameters, take_account
from ldm_jax.models import FIRST_STAGES
from ldm_jax.models.quantizer import nearest_codes

SMALL = {"block_out_channels": (32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8}
PLAIN = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
ATTENTION = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
}
KINDS = {
    "kl": (diffusers.AutoencoderKL, {**PLAIN, "latent_channels": 4}),
    "kl_attention": (diffusers.AutoencoderKL, {**ATTENTION, "latent_channels": 4}),
    "vq": (diffusers.VQModel, {**PLAIN, "num_vq_embeddings": 50, "vq_embed_dim": 3}),
    "vq_attention": (diffusers.VQModel, {**ATTENTION, "num_vq_embeddings": 50, "vq_embed_dim": 2}),
    "vq_no_attention": (
        diffusers.VQModel,
        {**PLAIN, "num_vq_embeddings": 50, "mid_block_add_attention": False},
    ),
}


def converted(theirs, folder):
    """Returns our first stage and its parameters, by way of the folder that diffusers writes."""
    theirs.save_pretrained(folder)
    with read_diffusers(folder) as foreign:
        ours = build("model", FIRST_STAGES, foreign.settings["task"]["model"])
        f = ours.downsampling_factor
        latent = jnp.zeros((1, 16 // f, 16 // f, ours.latent_channels))
        key = jax.eval_shape(lambda: jax.random.key(0))
        abstract = jax.eval_shape(ours.init, key, jnp.zeros((1, 16, 16, 3)), latent)["params"]
        component = foreign.components["first_stage"]
        entries = component.entries(ours, abstract)
        account = take_account(entries, component)
        assert account.is_clean, account
        return ours, read_parameters(entries, component.tensors)


def blocks_of(ours, params, method, x):
    """Returns the result of a method and the outputs of all blocks, by our names."""
    out, state = jax.jit(
        lambda params, x: ours.apply(
            {"params": params},
            x,
            method=method,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
    )(params, x)
    found = {}
    for half, children in state["intermediates"].items():
        for name, child in children.items():
            if name == "__call__":
                found[half] = child[0]
            elif "__call__" in child:
                found[f"{half}/{name}"] = child["__call__"][0]
    return out, found


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_equals_diffusers(kind, tmp_path):
    make, fields = KINDS[kind]
    theirs = make(**SMALL, **fields)
    randomize(theirs)
    if kind.startswith("vq"):  # codes as far apart as the latents are
        torch.nn.init.normal_(theirs.quantize.embedding.weight)
    ours, params = converted(theirs, tmp_path)
    x = np.random.default_rng(2).uniform(-1, 1, size=(2, 16, 16, 3)).astype(np.float32)

    code, blocks = blocks_of(ours, params, "encode", jnp.asarray(x))
    names = {block: diffusers_block(ours, block) for block in blocks}
    expected = record(theirs, names.values())
    with torch.no_grad():
        encoded = theirs.encode(nchw(x))
    assert len(names) > 8
    for block, name in names.items():
        assert_close(blocks[block], nhwc(expected[name]), f"{kind}: {block} ({name})")
    if kind.startswith("kl"):
        assert_close(code.mean, nhwc(encoded.latent_dist.mean), "mean")
        assert_close(code.logvar, nhwc(encoded.latent_dist.logvar), "logvar")
    else:
        assert_close(code.latent, nhwc(encoded.latents), "latents")

    z = np.asarray(code.mode())
    images, blocks = blocks_of(ours, params, "decode", jnp.asarray(z))
    names = {block: diffusers_block(ours, block) for block in blocks}
    expected = record(theirs, names.values())
    with torch.no_grad():
        decoded = theirs.decode(nchw(z)).sample
    assert len(names) > 8
    for block, name in names.items():
        assert_close(blocks[block], nhwc(expected[name]), f"{kind}: {block} ({name})")
    assert_close(images, nhwc(decoded), "images")


def test_the_codes_are_those_of_diffusers(tmp_path):
    theirs = diffusers.VQModel(**SMALL, **KINDS["vq"][1])
    randomize(theirs)
    torch.nn.init.normal_(theirs.quantize.embedding.weight)
    _, params = converted(theirs, tmp_path)
    z = np.random.default_rng(3).normal(size=(2, 4, 4, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.quantize(nchw(z))[2][2]
    got = nearest_codes(jnp.asarray(z), params["codebook"])
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(got)) > 10
