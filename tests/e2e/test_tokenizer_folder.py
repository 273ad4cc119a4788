"""Text-to-image over the tokenizer of a Hugging Face folder, its encoder trained or frozen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ldm_jax.conditioning import BertText
from ldm_jax.core.checks import UserError
from ldm_jax.interop.conditioner_names import transformers_bert
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.loop import train

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "green", "circle", "square", "##s")
LENGTH = 7
BERT = {"vocab_size": len(WORDS), "length": LENGTH, "dim": 32, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT encoder made of noise with its tokenizer, as transformers keeps them."""
    import tokenizers  # comes with transformers, slow to load

    folder = tmp_path_factory.mktemp("bert")
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    core = tokenizers.Tokenizer(model)
    core.normalizer = tokenizers.normalizers.BertNormalizer()
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    core.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(config))
    module = BertText(**BERT)
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = {"tokens": jnp.zeros((1, LENGTH), jnp.int32)}
    entries = make_entries(
        jax.eval_shape(module.init, key, tokens)["params"], transformers_bert(module)
    )
    rng = np.random.default_rng(0)
    tensors = {x.theirs: rng.normal(size=x.their_shape).astype("f") for x in entries}
    header = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with SafetensorsWriter(folder / "model.safetensors", header) as writer:
        for name, x in tensors.items():
            writer.write(name, x)
    return folder


def text_config(runs, folder, conditioner):
    config = tiny.get_config("text")
    with config.unlocked(), config.ignore_type():
        config.task.first_stage.workdir = str(runs.autoencoder)
        config.data.tokenizer = {"name": "huggingface", "path": str(folder), "length": LENGTH}
        config.task.conditioner = conditioner
    return config


def trained(vocab_size):
    return {**tiny.TEXT, "vocab_size": vocab_size, "length": LENGTH}


def check_captions_are_read(pipeline):
    """Draws one image, of one seed, for captions that must and must not be the same tokens."""
    captions = ("a red circle a red", "a red circle " * 5, "a green square a red")
    first, cut, other = (pipeline(caption, seed=0)[0] for caption in captions)
    assert first.shape == (16, 16, 3)
    np.testing.assert_array_equal(first, cut)  # as many tokens as fit
    assert np.any(first != other)


@pytest.mark.slow  # a run with a folder of words is in test_pipeline.py
def test_an_encoder_is_trained_over_the_folder(runs, folder, tmp_path):
    train(text_config(runs, folder, trained(len(WORDS))), tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["task"]["conditioner"]["null_tokens"] == [2, 3, 0, 0, 0, 0, 0]
    check_captions_are_read(Pipeline.from_checkpoint(tmp_path))


@pytest.mark.slow  # test_frozen_text.py trains with a frozen encoder
def test_a_frozen_encoder_of_the_folder_stays_as_it_is(runs, folder, tmp_path):
    config = text_config(runs, folder, {"name": "bert_text", **BERT, "pooled": True})
    with config.unlocked(), config.ignore_type():
        config.task.update(train_conditioner=False, conditioner_weights=str(folder))
    state = train(config, tmp_path)
    assert set(state.params) == {"unet"}
    pipeline = Pipeline.from_checkpoint(tmp_path)
    kept = flatten(pipeline._frozen.conditioner)
    with SafetensorsFile(folder / "model.safetensors") as file:
        words = file["embeddings.word_embeddings.weight"]
        np.testing.assert_array_equal(kept["token_embedding/embedding"], words)
    check_captions_are_read(pipeline)


def test_a_table_of_another_size_is_refused(runs, folder, tmp_path):
    text = (
        r"config.task.conditioner.vocab_size=30522, but the tokenizer of config.data has 10. "
        r"Legal: 10\."
    )
    with pytest.raises(UserError, match=text):
        train(text_config(runs, folder, trained(30522)), tmp_path)
    bert = {"name": "bert_text", **BERT, "pad_id": 3}
    text = r"conditioner.pad_id=3, but the tokenizer of config.data has 0. Legal: 0\."
    with pytest.raises(UserError, match=text):
        train(text_config(runs, folder, bert), tmp_path)
