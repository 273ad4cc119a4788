"""The shapes of a published checkpoint give the model of its configuration."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import base_config
from ldm_jax.diffusion.schedule import alpha_bars, betas
from ldm_jax.interop.compvis import PREFIXES
from ldm_jax.interop.compvis_settings import file_scale_factor, infer_settings, open_question
from ldm_jax.interop.conditioner_names import layers_read
from ldm_jax.interop.export import Diffusion, Parts, compvis_file
from ldm_jax.interop.foreign import Renamed
from ldm_jax.interop.published import PUBLISHED, find_published
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models import UNet
from ldm_jax.train import assemble, assemble_data

FOLDER = Path(__file__).parents[3] / "configs" / "published"
PATH = Path("model.ckpt")
# What CompVis, Stability AI and the retrieval-augmented models' authors published as one file.
WHOLE = [
    "celebahq",
    "ffhq",
    "lsun_bedrooms",
    "lsun_churches",
    "imagenet_vq_f8",
    "imagenet_vq_f4",
    "text2img256",
    "txt2img_1p4b",
    "layout2img_openimages",
    "inpainting_big",
    "super_resolution",
    "semantic_256",
    "rdm_768",
    "sd_v1",
    "sd_v2_base",
]
CHURCHES_SCALE = 0.22


class Shapes:
    """A file of names and shapes; it has the values of its buffers alone."""

    def __init__(self, shapes, buffers):
        self._shapes, self._buffers = shapes, buffers

    def keys(self):
        return [*self._buffers, *self._shapes]

    def info(self, key):
        if key in self._buffers:
            return TensorInfo(self._buffers[key].shape, self._buffers[key].dtype)
        return TensorInfo(self._shapes[key], np.dtype(np.float32))

    def __getitem__(self, key):
        return self._buffers[key]

    def close(self):
        pass


@functools.cache
def config_of(name):
    return load_config(f"{FOLDER / name}.py")


@functools.cache
def abstract(name):
    config = config_of(name)
    task = assemble.build_task(config)
    stage = task.first_stage.model
    key = jax.random.key(0)
    images = jnp.zeros((1, stage.downsampling_factor, stage.downsampling_factor, 3))
    eps = jnp.zeros((1, 1, 1, stage.latent_channels))
    spec = assemble_data.batch_spec(config, task, 1)
    shapes = {
        "first_stage": jax.eval_shape(stage.init, key, images, eps)["params"],
        "conditioner": jax.eval_shape(task.init_conditioner, key),
        "unet": jax.eval_shape(lambda: task.init(key, spec)[0]["unet"]),
    }
    return task, {part: tree for part, tree in shapes.items() if jax.tree.leaves(tree)}


@functools.cache
def checkpoint(name):
    """Returns the names and shapes of the published file, and its buffers."""
    task, shapes = abstract(name)
    schedule = dict(config_of(name).task.schedule)
    scale = config_of(name).task.first_stage.scale_factor
    diffusion = Diffusion(
        CHURCHES_SCALE if scale == "auto" else scale,
        "linear",
        betas(**schedule),
        alpha_bars(**schedule),
        "eps",
        "reference",
    )
    modules = {
        "first_stage": task.first_stage.model,
        "conditioner": task.conditioner,
        "unet": task.model,
    }
    file = compvis_file(PATH, Parts(modules, shapes, task.image_size, diffusion))
    tensors = {e.theirs: e.their_shape for _, entries in file.parts for e in entries}
    if name.startswith("sd_v2"):  # the file has the layer that the model leaves out
        layer = re.compile(r"(.*\.resblocks\.)22(\..*)")
        last = {n: s for n, s in tensors.items() if layer.fullmatch(n)}
        tensors |= {layer.sub(r"\g<1>23\2", n): shape for n, shape in last.items()}
    if name == "inpainting_big":  # the first stage once more, in the conditioner's place
        stage = {n: s for n, s in tensors.items() if n.startswith(PREFIXES["first_stage"])}
        there = PREFIXES["conditioner"]
        tensors |= {there + n.removeprefix(PREFIXES["first_stage"]): s for n, s in stage.items()}
    return tensors, dict(file.extras)


def infer(tensors, buffers):
    file = Shapes(tensors, buffers)
    views = {
        part: {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    found = {part: Renamed(file, view) for part, view in views.items() if view}
    return infer_settings(PATH, file, found)


def build(settings):
    config = base_config()
    config.task, config.data = ConfigDict(settings["task"]), ConfigDict(settings["data"])
    return assemble.build_task(config), config


def network(model: UNet):
    """Returns the U-Net without what does not change its numbers."""
    levels = [2**level for level in range(len(model.channel_mult))]
    factors = tuple(factor for factor in levels if factor in model.attention_factors)
    return model.clone(attention_factors=factors, remat="none", dropout=0.0)


@pytest.mark.parametrize("with_buffers", [True, False])
@pytest.mark.parametrize("name", WHOLE)
def test_a_published_checkpoint_is_its_configuration(name, with_buffers):
    tensors, buffers = checkpoint(name)
    if not with_buffers:
        kept = ("scale_factor",) if name == "lsun_churches" else ()
        buffers = {key: buffers[key] for key in kept}
    settings = infer(tensors, buffers)
    expected, _ = abstract(name)
    found, config = build(settings)
    assert network(found.model) == network(expected.model)
    assert found.first_stage.model == expected.first_stage.model
    assert found.conditioner == expected.conditioner
    np.testing.assert_allclose(
        found.schedule.alpha_bar, expected.schedule.alpha_bar, rtol=1e-6, atol=0
    )
    scale = config_of(name).task.first_stage.scale_factor
    scale = CHURCHES_SCALE if scale == "auto" else scale
    assert config.task.first_stage.scale_factor == pytest.approx(scale, rel=1e-6)
    assert found.train_conditioner is expected.train_conditioner
    assert found.parameterization == expected.parameterization
    assert found.image_size == expected.image_size
    tokenizer = config_of(name).data.get("tokenizer")
    if tokenizer is not None:
        assert (config.data.tokenizer.name, config.data.tokenizer.length) == ("huggingface", 77)
    else:
        assert "tokenizer" not in config.data
    assert open_question(settings) == ("parameterization" if name == "sd_v2_base" else None)


def test_every_whole_checkpoint_is_in_the_table_and_reachable():
    found = set()
    for name in WHOLE:
        unet = config_of(name).task.model
        task, shapes = abstract(name)
        inputs = shapes["unet"]["conv_in"]["kernel"].shape[2]
        context = 0
        if task.model.transformer_depth:
            block = shapes["unet"]["mid_attn"]["block_0"]
            context = block["cross_attn"]["to_k"]["kernel"].shape[0]
        published = find_published((unet.channels, unet.channel_mult, context, inputs), "x")
        found.add(published.name)
    assert found == {published.name for published in PUBLISHED}
    assert len({published.shape for published in PUBLISHED}) == len(PUBLISHED)


def test_without_its_scale_factor_churches_is_refused():
    tensors, buffers = checkpoint("lsun_churches")
    del (buffers := dict(buffers))["scale_factor"]
    with pytest.raises(UserError) as caught:
        infer(tensors, buffers)
    assert str(caught.value) == (
        "model.ckpt: LSUN-Churches scales its latents by a buffer, scale_factor, which the file "
        "lacks. Legal: --config.task.first_stage.scale_factor=NUMBER."
    )


def test_the_buffers_of_a_file_come_before_the_table():
    tensors, buffers = checkpoint("sd_v1")
    others = np.linspace(0.001**0.5, 0.02**0.5, 1000) ** 2
    buffers = {**buffers, "betas": others.astype(np.float32), "scale_factor": np.float32(0.5)}
    settings = infer(tensors, buffers)
    assert settings["task"]["first_stage"]["scale_factor"] == 0.5
    schedule = {"name": "linear", "num_timesteps": 1000, "start": 0.001, "end": 0.02}
    assert settings["task"]["schedule"] == schedule


def test_another_schedule_is_refused():
    tensors, buffers = checkpoint("sd_v1")
    buffers = {**buffers, "betas": np.linspace(0.00085, 0.012, 1000, dtype=np.float32)}
    with pytest.raises(
        UserError, match=r"betas: not linear in their square roots. Legal: --config"
    ):
        infer(tensors, buffers)


@pytest.mark.parametrize("name", ["kl_f8", "vq_f8", "vq_f4_noattn"])
def test_a_bare_first_stage_is_an_autoencoder(name):
    expected = assemble.build_task(config_of(name)).model
    f = expected.downsampling_factor
    args = jnp.zeros((1, f, f, 3)), jnp.zeros((1, 1, 1, expected.embed_dim))
    shapes = jax.eval_shape(expected.init, jax.random.key(0), *args)["params"]
    file = compvis_file(PATH, Parts({"first_stage": expected}, {"first_stage": shapes}, 256, None))
    tensors = {e.theirs: e.their_shape for _, entries in file.parts for e in entries}
    assert "decoder.conv_in.weight" in tensors
    bare = Shapes(tensors, {})
    settings = infer_settings(PATH, bare, {"first_stage": bare})
    assert settings["task"]["name"] == "autoencoder"
    assert settings["sample"] == {}
    assert build(settings)[0].model == expected


def without(tensors, *prefixes):
    return {name: shape for name, shape in tensors.items() if not name.startswith(prefixes)}


def test_a_model_that_was_not_published_is_refused():
    tensors, buffers = checkpoint("sd_v1")
    wide = {
        name: (shape[0], 1111)
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        else shape
        for name, shape in tensors.items()
    }
    with pytest.raises(UserError) as caught:
        infer(wide, buffers)
    assert str(caught.value) == (
        "model.ckpt: a U-Net with channels=320, channel_mult=(1, 2, 4, 4), context width 1111 and "
        "4 input channels is none of the published ones, and its weights do not tell heads and "
        "noise schedule. Legal: --config FILE of the model, or one of CelebA-HQ, FFHQ and LSUN-"
        "Bedrooms, LSUN-Churches, ImageNet, f = 8, ImageNet, f = 4, text2img256, txt2img-1p4B, "
        "layout2img-openimages256, inpainting_big, super-resolution, semantic synthesis, RDM 768, "
        "Stable Diffusion 1, Stable Diffusion 2."
    )


def test_what_is_missing_is_named():
    tensors, buffers = checkpoint("sd_v1")
    with pytest.raises(UserError) as caught:
        infer(without(tensors, "first_stage_model."), buffers)
    assert str(caught.value) == (
        "model.ckpt: has no first stage. Legal: a file with first_stage_model.*"
    )
    name = "model.diffusion_model.input_blocks.0.0.weight"
    with pytest.raises(UserError) as caught:
        infer(without(tensors, name), buffers)
    assert str(caught.value) == (
        "model.ckpt: lacks input_blocks.0.0.weight, from which the model would be told. Legal: a "
        "whole checkpoint, or --config FILE of the model."
    )


def test_an_unknown_conditioner_is_refused():
    tensors, buffers = checkpoint("sd_v1")
    other = without(tensors, "cond_stage_model.") | {"cond_stage_model.t5.weight": (3,)}
    with pytest.raises(UserError) as caught:
        infer(other, buffers)
    assert str(caught.value) == (
        "model.ckpt: its cond_stage_model is none we know (found t5.weight). Legal: CLIP, "
        "OpenCLIP, BERTEmbedder, ClassEmbedder, SpatialRescaler, or --config FILE."
    )


def _tower(prefix, layers):
    """Returns the shapes of ViT-H/14's text tower under one of the two namings."""
    if prefix == "model.":
        names = {"token_embedding.weight": (49408, 1024), "positional_embedding": (77, 1024)}
        names |= {f"transformer.resblocks.{k}.ln_1.weight": (1024,) for k in range(layers)}
    else:
        names = {
            "embeddings.token_embedding.weight": (49408, 1024),
            "embeddings.position_embedding.weight": (77, 1024),
        }
        names |= {f"encoder.layers.{k}.layer_norm1.weight": (1024,) for k in range(layers)}
    return {prefix + name: shape for name, shape in names.items()}


@pytest.mark.parametrize("prefix", ["model.", "transformer.text_model."])
@pytest.mark.parametrize("layers", [24, 23])
def test_stable_diffusion_2_reads_23_layers_however_they_are_named(prefix, layers):
    tensors, buffers = checkpoint("sd_v2_base")
    there = PREFIXES["conditioner"]
    rest = {name: shape for name, shape in tensors.items() if not name.startswith(there)}
    tower = {there + name: shape for name, shape in _tower(prefix, layers).items()}
    settings = infer({**rest, **tower}, buffers)
    conditioner = settings["task"]["conditioner"]
    assert (conditioner["depth"], conditioner["activation"]) == (23, "gelu")
    assert open_question(settings) == "parameterization"
    assert settings["data"]["tokenizer"]["pad_token"] == "!"


@pytest.mark.parametrize(
    ("width", "layers", "read"), [(1024, 24, 23), (1024, 23, 23), (768, 12, 12)]
)
def test_layers_read(width, layers, read):
    assert layers_read(width, layers) == read


def test_scale_factors_are_their_shortest_decimals():
    file = Shapes({}, {"scale_factor": np.float32(0.18215)})
    assert file_scale_factor(file) == 0.18215
    assert file_scale_factor(Shapes({}, {})) is None
