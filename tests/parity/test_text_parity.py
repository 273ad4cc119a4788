"""The text towers against transformers and diffusers, layer by layer, random weights, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")
import transformers
from compare import assert_close, intermediates, randomize, record
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.config import build
from ldm_jax.interop.conditioner_names import diffusers_bert, transformers_clip
from ldm_jax.interop.diffusers import read_json
from ldm_jax.interop.diffusers_settings import bert_settings, clip_settings
from ldm_jax.interop.foreign import Renamed, read_parameters
from ldm_jax.interop.mapping import make_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile

VOCABULARY, LENGTH = 99, 13
TOKENS = np.random.default_rng(4).integers(0, VOCABULARY, size=(3, LENGTH))


def clip(activation):
    """Returns a small CLIP text tower, as transformers has it."""
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return transformers.CLIPTextModel(config)


def bert():
    """Returns a small text transformer of latent diffusion, as diffusers has it."""
    config = LDMBertConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        d_model=48,
        encoder_ffn_dim=192,
        encoder_layers=3,
        encoder_attention_heads=4,
        head_dim=16,
    )
    return LDMBertModel(config)


TOWERS = {
    "clip_quick_gelu": (lambda: clip("quick_gelu"), clip_settings, transformers_clip),
    "clip_gelu": (lambda: clip("gelu"), clip_settings, transformers_clip),
    "bert": (bert, bert_settings, diffusers_bert),
}
LAYERS = {"clip": "encoder.layers.{}", "bert": "model.layers.{}"}


@pytest.mark.parametrize("name", TOWERS)
def test_every_layer_equals_the_reference(name, tmp_path):
    make, settings, cells = TOWERS[name]
    theirs = make()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours = build("c", CONDITIONERS, settings(read_json(tmp_path / "config.json")))
    tokens = jnp.asarray(TOKENS, jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = jax.eval_shape(ours.init, key, {"tokens": tokens})["params"]
    with SafetensorsFile(tmp_path / "model.safetensors") as file:
        names = {key.removeprefix("text_model."): key for key in file.keys()}
        entries = make_entries(abstract, cells(ours))
        assert {entry.theirs for entry in entries} == set(names)
        params = read_parameters(entries, Renamed(file, names))

    got, layers = intermediates(ours, params, {"tokens": tokens})
    prefix = LAYERS[name.partition("_")[0]]
    modules = [n for n, _ in theirs.named_modules()]
    full = {i: next(n for n in modules if n.endswith(prefix.format(i))) for i in range(3)}
    expected = record(theirs, full.values())
    with torch.no_grad():
        out = theirs(torch.from_numpy(TOKENS))
    for i, module in full.items():
        assert_close(layers[f"layer_{i}"], expected[module], f"{name}: layer {i}")
    assert_close(got.context, out[0], f"{name}: output")
