"""CLIP's image tower against transformers, layer by layer, random weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
import transformers
from compare import assert_close, intermediates, nchw, randomize, record

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.interop.clip_image_names import (
    clip_image_settings,
    is_not_of_clip_image,
    transformers_clip_image,
)
from ldm_jax.interop.diffusers import read_json
from ldm_jax.interop.foreign import read_parameters
from ldm_jax.interop.mapping import make_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile

IMAGES = np.random.default_rng(4).integers(0, 256, size=(3, 24, 24, 3), dtype=np.uint8)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
    "projection_dim": 20,
}
TEXT = {
    "vocab_size": 9,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 7,
}


def tower(activation):
    config = transformers.CLIPVisionConfig(**VISION, hidden_act=activation)
    return transformers.CLIPVisionModelWithProjection(config)


def whole_clip():
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
    return transformers.CLIPModel(config)


def read(folder):
    """Returns our conditioner and its parameters from a folder of transformers."""
    ours = build("c", CONDITIONERS, clip_image_settings(read_json(folder / "config.json")))
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = jax.eval_shape(ours.init, key, {"image": IMAGES})["params"]
    with SafetensorsFile(folder / "model.safetensors") as file:
        entries = make_entries(abstract, transformers_clip_image(ours))
        used = {name for name in file.keys() if not is_not_of_clip_image(name)}
        assert {entry.theirs for entry in entries} == used
        return ours, read_parameters(entries, file)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_every_layer_equals_the_reference(activation, tmp_path):
    theirs = tower(activation)
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours, params = read(tmp_path)
    got, layers = intermediates(ours, params, {"image": jnp.asarray(IMAGES)})
    names = {i: f"vision_model.encoder.layers.{i}" for i in range(3)}
    expected = record(theirs, names.values())
    pixels = ours.apply({}, jnp.asarray(IMAGES), method="prepare")
    with torch.no_grad():
        out = theirs(nchw(pixels))
    for i, name in names.items():
        assert_close(layers[f"layer_{i}"], expected[name], f"{activation}: layer {i}")
    assert_close(got.context[:, 0], out.image_embeds, f"{activation}: output")


def test_the_tower_of_a_whole_clip(tmp_path):
    theirs = whole_clip()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours, params = read(tmp_path)
    assert ours.projection_dim == 12
    got = jax.jit(ours.apply)({"params": params}, {"image": IMAGES})
    pixels = ours.apply({}, jnp.asarray(IMAGES), method="prepare")
    with torch.no_grad():
        pooled = theirs.vision_model(pixel_values=nchw(pixels)).pooler_output
        expected = theirs.visual_projection(pooled)
    assert_close(got.context[:, 0], expected, "whole CLIP")


def test_images_are_prepared_as_transformers_does():
    images = np.random.default_rng(5).integers(0, 256, size=(2, 50, 50, 3), dtype=np.uint8)
    size = {"height": 24, "width": 24}
    # The one for Pillow, which is what CLIP itself was trained with.
    processor = transformers.CLIPImageProcessorPil(size=size, do_center_crop=False)
    expected = processor(list(images), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    ours = build("c", CONDITIONERS, {"name": "clip_image", "resolution": 24, "patch": 8})
    found = jax.jit(lambda x: ours.apply({}, x, method="prepare"))(images)
    # Pillow rounds to whole levels twice, after the rows and after the columns.
    np.testing.assert_allclose(found, expected, atol=1.6 / 255 / 0.26)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_type": "vit"}, "config.json: got vit. Legal: clip, clip_vision_model."),
        ({"intermediate_size": 64}, "config.json: intermediate_size must be 4 x hidden_size."),
        ({"num_channels": 4}, "config.json: got num_channels=4. Legal: 3."),
    ],
)
def test_other_towers_are_refused(change, text):
    config = {"model_type": "clip_vision_model", **VISION, **change}
    with pytest.raises(UserError) as caught:
        clip_image_settings(config)
    assert str(caught.value) == text
