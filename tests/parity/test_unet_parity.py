"""The U-Net of every family against diffusers, block by block, random weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from compare import assert_close, intermediates, nchw, nhwc, randomize, record

from ldm_jax.core.config import build
from ldm_jax.core.types import Conditioning
from ldm_jax.interop.diffusers_settings import unet_settings
from ldm_jax.interop.foreign import read_parameters
from ldm_jax.interop.mapping import make_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile
from ldm_jax.interop.unet_names import diffusers_prefix, diffusers_unet
from ldm_jax.models import NETWORKS

CONDITIONAL, PLAIN = diffusers.UNet2DConditionModel, diffusers.UNet2DModel
SMALL = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 96),
    "layers_per_block": 2,
    "norm_num_groups": 8,
}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
}
SELF = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
UPDOWN = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 8,
    "attention_head_dim": 8,
}
FAMILIES = {
    "unconditional": (PLAIN, SELF),
    "one_head": (PLAIN, {**SELF, "attention_head_dim": None}),
    "class_embedded": (PLAIN, {**SELF, "num_class_embeds": 11}),
    "concat": (PLAIN, {**SELF, "in_channels": 7}),
    "scale_shift_updown": (PLAIN, UPDOWN),
    "cross_attention": (CONDITIONAL, {**CROSS, "attention_head_dim": 4}),
    "cross_attention_depth": (
        CONDITIONAL,
        {**CROSS, "attention_head_dim": 4, "transformer_layers_per_block": 3},
    ),
    "cross_attention_concat": (CONDITIONAL, {**CROSS, "attention_head_dim": 4, "in_channels": 9}),
    # As in Stable Diffusion 2: heads of one width, linear projections.
    "linear_projection": (
        CONDITIONAL,
        {**CROSS, "attention_head_dim": (4, 8, 12), "use_linear_projection": True},
    ),
}


def converted(theirs, tmp_path, **shapes):
    """Returns our network and its parameters, by way of the files that diffusers writes."""
    theirs.save_pretrained(tmp_path)
    settings = unet_settings({**theirs.config, "_class_name": type(theirs).__name__})
    ours = build("unet", NETWORKS, settings)
    key = jax.eval_shape(lambda: jax.random.key(0))
    z = jnp.zeros((1, 8, 8, theirs.config.out_channels))
    abstract = jax.eval_shape(
        lambda key: ours.init(key, z, jnp.zeros((1,)), Conditioning(**shapes))["params"], key
    )
    with SafetensorsFile(tmp_path / "diffusion_pytorch_model.safetensors") as file:
        return ours, read_parameters(make_entries(abstract, diffusers_unet(ours)), file), abstract


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_equals_diffusers(family, tmp_path):
    kind, fields = FAMILIES[family]
    theirs = kind(**{**SMALL, **fields})
    randomize(theirs)
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    t = np.array([3, 981], np.float32)
    arguments, routes = {}, {}
    if theirs.config.in_channels > 4:
        routes["concat"] = rng.normal(size=(2, 8, 8, theirs.config.in_channels - 4))
    if kind is CONDITIONAL:
        routes["context"] = rng.normal(size=(2, 5, 24))
        arguments["encoder_hidden_states"] = torch.from_numpy(routes["context"]).float()
    if theirs.config.num_class_embeds:
        labels = np.array([10, 4])
        arguments["class_labels"] = torch.from_numpy(labels)
        routes["embedding"] = theirs.class_embedding.weight.detach().numpy()[labels]
    routes = {name: jnp.asarray(x, jnp.float32) for name, x in routes.items()}
    one = {name: x[:1] for name, x in routes.items()}
    ours, params, abstract = converted(theirs, tmp_path, **one)
    assert jax.tree.structure(params) == jax.tree.structure(abstract)

    conditioning = Conditioning(**routes)
    got, blocks = intermediates(ours, params, jnp.asarray(z), jnp.asarray(t), conditioning)
    names = {block: diffusers_prefix(ours, block) for block in blocks}
    expected = record(theirs, names.values())
    inputs = np.concatenate([z, routes["concat"]], axis=-1) if "concat" in routes else z
    with torch.no_grad():
        out = theirs(nchw(inputs), torch.from_numpy(t), **arguments).sample
    assert len(blocks) > 20
    for block, name in names.items():
        reference = expected[name]
        reference = nhwc(reference) if reference.ndim == 4 else reference.numpy()
        assert_close(blocks[block], reference, f"{family}: {block} ({name})")
    assert_close(got, nhwc(out), f"{family}: output")
