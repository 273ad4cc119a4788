"""CLIP's embeddings from a folder of transformers; against transformers itself in tests/parity."""

import functools
import json

import jax
import numpy as np
import pytest

from ldm_jax.conditioning import ClipImage, ClipText
from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.evaluation.clip_features import CaptionEmbedding, clip
from ldm_jax.evaluation.features import Extraction
from ldm_jax.evaluation.metric_names import metric_name
from ldm_jax.interop.clip_image_names import transformers_clip_image
from ldm_jax.interop.clip_model import Clip, embed_captions
from ldm_jax.interop.conditioner_names import transformers_clip
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo

IMAGE = ClipImage(resolution=8, patch=4, dim=8, depth=1, num_heads=2, projection_dim=6)
TEXT = ClipText(vocab_size=8, length=5, dim=12, depth=1, num_heads=2)
WORDS = ("a", "red", "blue", "square", "circle")
CONFIG = {
    "model_type": "clip",
    "projection_dim": 6,
    "vision_config": {
        "hidden_size": 8,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    },
    "text_config": {
        "vocab_size": 8,
        "max_position_embeddings": 5,
        "hidden_size": 12,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "eos_token_id": 2,
    },
}


@functools.cache
def params():
    """Returns random parameters of both towers and the projection."""
    images, tokens = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 5), np.int32)
    key = jax.random.key(0)
    shapes = {
        "image": jax.eval_shape(IMAGE.init, key, {"image": images})["params"],
        "text": jax.eval_shape(TEXT.init, key, {"tokens": tokens})["params"],
        "projection": jax.ShapeDtypeStruct((12, 6), np.float32),
    }
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape, np.float32), shapes)


@jax.jit
def context_of(tokens):
    return TEXT.apply({"params": params()["text"]}, {"tokens": tokens}).context


def tensors():
    """Returns the same by the names of a CLIPModel."""
    towers = {
        "": ("image", transformers_clip_image(IMAGE)),
        "text_model.": ("text", transformers_clip(TEXT)),
    }
    found = {"text_projection.weight": np.ascontiguousarray(params()["projection"].T)}
    for prefix, (tower, cells) in towers.items():
        leaves = flatten(params()[tower])
        for entry in make_entries(params()[tower], cells):
            found[prefix + entry.theirs] = entry.to_theirs([leaves[name] for name in entry.ours])
    return found


def write(folder, tensors, config=CONFIG):
    folder.mkdir(exist_ok=True)
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with SafetensorsWriter(folder / "model.safetensors", infos) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "tiny", tensors())


def test_images_are_embedded_by_the_image_tower(folder):
    extractor = clip(folder)
    grey = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    embed = jax.jit(lambda params, images: IMAGE.apply({"params": params}, {"image": images}))
    expected = embed(params()["image"], grey.repeat(3, -1)).context
    found = Extraction(extractor, batch_size=8)(grey)["features"]
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5, atol=1e-5)
    assert metric_name("clip_score", extractor.name) == "CLIP score (CLIP tiny)"
    assert metric_name("fid", extractor.name) == "Fréchet distance (CLIP tiny)"


def test_captions_are_read_at_their_end_and_projected(folder):
    tokenizer = WordTokenizer(WORDS, 5)
    tokenizer.save(folder)
    captions = ["a red square", "blue circle", "circle", "a a a a a a a a"]
    tokens = np.stack([tokenizer(caption) for caption in captions])
    context = context_of(tokens)
    # Its configuration names no end token, so the largest id of a caption is it.
    ends = [2, 1, 0, 0]
    expected = np.stack([context[k, end] for k, end in enumerate(ends)]) @ params()["projection"]
    found = CaptionEmbedding(folder, batch_size=3)(captions)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_first_end_token_counts():
    tokens = np.array(
        [[1, 3, 7, 3, 3], [3, 5, 5, 5, 3], [1, 1, 1, 1, 3], [7, 7, 3, 1, 1]], np.int32
    )
    context = context_of(tokens)
    model = Clip(IMAGE, TEXT, params(), 3)
    found = jax.jit(lambda params, tokens: embed_captions(model, params, tokens))(params(), tokens)
    ends = [1, 0, 4, 2]
    expected = np.stack([context[k, end] for k, end in enumerate(ends)]) @ params()["projection"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_fingerprint_follows_from_every_number(folder):
    first = clip(folder).fingerprint
    assert (len(first), clip(folder).fingerprint) == (64, first)
    changed = tensors()
    changed["text_projection.weight"][0, 0] += 1e-3
    assert clip(write(folder, changed)).fingerprint != first


def test_refuses_folders_without_a_whole_clip(folder, tmp_path):
    def refusal(act):
        with pytest.raises(UserError) as caught:
            act()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    missing = tmp_path / "nothing"
    assert refusal(lambda: clip(missing)) == (
        f"extractor clip: no folder {str(missing)!r}. Legal: a folder of transformers with a whole "
        "CLIPModel, such as that of openai/clip-vit-large-patch14."
    )
    assert refusal(lambda: clip()).startswith("extractor clip: no folder ''. Legal: ")
    WordTokenizer((*WORDS, "triangle", "star", "ring"), 5).save(folder)
    assert refusal(lambda: CaptionEmbedding(folder)) == (
        f"extractor clip: {folder}: its tokenizer has ids up to 9. Legal: below the tower's 8."
    )
    part = {name: x for name, x in tensors().items() if name != "text_projection.weight"}
    assert refusal(lambda: clip(write(folder, part))) == (
        f"{folder}: 'text_projection.weight' is missing. Legal: a whole CLIPModel."
    )
    write(folder, part, {"model_type": "clip_text_model"})
    assert refusal(lambda: clip(folder)) == (
        f"{folder}: got a model of type 'clip_text_model'. Legal: 'clip', a whole CLIPModel of "
        "transformers with both towers."
    )
