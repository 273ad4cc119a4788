"""Weights of a BERT encoder from a folder of transformers, written here by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import BertText
from ldm_jax.core.checks import UserError
from ldm_jax.interop.conditioner_names import transformers_bert
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.interop.towers import read_tower

FIELDS = {"vocab_size": 7, "dim": 8, "depth": 2, "num_heads": 2, "num_positions": 6, "length": 4}
CONFIG = {
    "model_type": "bert",
    "vocab_size": 7,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
WHAT = "config.task.conditioner_weights"


def abstract(module):
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = {"tokens": jnp.zeros((1, module.length), jnp.int32)}
    return jax.eval_shape(module.init, key, tokens)["params"]


def tensors():
    """Returns the tensors of a BertModel under their own names, made of noise."""
    module = BertText(**FIELDS)
    rng = np.random.default_rng(0)
    entries = make_entries(abstract(module), transformers_bert(module))
    found = {x.theirs: rng.normal(size=x.their_shape).astype("f") for x in entries}
    pooler = {"pooler.dense.weight": np.ones((8, 8), "f"), "pooler.dense.bias": np.ones(8, "f")}
    return {**found, **pooler, "embeddings.position_ids": np.arange(6)[None, :]}


def write(folder, prefix="", **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    named = {prefix + name: x for name, x in tensors().items()}
    header = {name: TensorInfo(x.shape, x.dtype) for name, x in named.items()}
    with SafetensorsWriter(folder / "model.safetensors", header) as writer:
        for name, x in named.items():
            writer.write(name, x)
    return folder


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_every_parameter_finds_its_tensor(tmp_path, prefix):
    module = BertText(**FIELDS)
    read = flatten(read_tower(WHAT, write(tmp_path / "bert", prefix), module, abstract(module)))
    theirs = tensors()
    assert read.keys() == flatten(abstract(module)).keys()
    query = theirs["encoder.layer.1.attention.self.query.weight"]
    np.testing.assert_array_equal(read["layer_1/attn/to_q/kernel"], query.T)
    words = theirs["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(read["token_embedding/embedding"], words)
    types = theirs["embeddings.token_type_embeddings.weight"]
    np.testing.assert_array_equal(read["type_embedding"], types)


@pytest.mark.parametrize(
    ("fields", "config", "text"),
    [
        ({"dim": 16}, {}, r"conditioner with dim=16. Legal: --config.task.conditioner.dim=8."),
        (
            {"pad_id": 1},
            {},
            r"conditioner with pad_id=1. Legal: --config.task.conditioner.pad_id=0",
        ),
        ({}, {"hidden_act": "relu"}, r"config.json: got hidden_act='relu'. Legal: 'gelu'."),
        ({}, {"model_type": "roberta"}, r"config.json: got model_type='roberta'. Legal: 'bert'."),
        ({}, {"layer_norm_eps": 1e-5}, r"config.json: got layer_norm_eps=1e-05. Legal: 1e-12."),
        ({}, {"intermediate_size": 30}, r"intermediate_size must be 4 x hidden_size."),
    ],
)
def test_another_encoder_is_refused(tmp_path, fields, config, text):
    module = BertText(**{**FIELDS, **fields})
    folder = write(tmp_path / "bert", **config)
    with pytest.raises(UserError, match=text) as raised:
        read_tower(WHAT, folder, module, abstract(module))
    assert str(raised.value).startswith(f"{WHAT}={folder}: ")
