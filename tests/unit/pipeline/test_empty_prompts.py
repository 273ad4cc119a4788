"""An empty caption and no caption are the same to a model, with every tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.config import build
from ldm_jax.data import TOKENIZERS
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.train.assemble_data import keep_text

TEXT_CONDITIONERS = {
    "text_transformer": {"dim": 6, "depth": 1, "num_heads": 2, "head_dim": 4, "pooled_dim": 4},
    "clip_text": {"dim": 8, "depth": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("words")
    WordTokenizer(("a", "cat"), 5).save(folder)
    # With start and end tokens, so that the empty caption is not zeros alone.
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="a $A cat", special_tokens=[("a", 2), ("cat", 3)]
    )
    tokenizer.save_pretrained(str(folder))
    return {
        "words": {"name": "words", "vocabulary": ("a", "cat"), "length": 5},
        "huggingface": {"name": "huggingface", "path": str(folder), "length": 5},
    }


@pytest.mark.parametrize("tokenizer_name", TOKENIZERS)
@pytest.mark.parametrize("name", TEXT_CONDITIONERS)
def test_an_empty_caption_gives_the_null_condition(settings, tokenizer_name, name):
    tokenizer = build("tokenizer", TOKENIZERS, settings[tokenizer_name])
    fields = {"name": name, "vocab_size": tokenizer.vocab_size, "length": 5}
    task = {"conditioner": {**fields, **TEXT_CONDITIONERS[name]}}
    config = ConfigDict({"data": {"tokenizer": settings[tokenizer_name]}, "task": task})
    keep_text(config, tokenizer)
    if tokenizer_name == "huggingface":
        assert tuple(config.task.conditioner.null_tokens) == (2, 3, 0, 0, 0)
    module = build("conditioner", CONDITIONERS, config.task.conditioner)
    shapes = jax.eval_shape(module.init, jax.random.key(0), tokens_of(tokenizer, "a"))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)
    null = jax.jit(lambda v: module.apply(v, 1, method="null"))(variables)
    condition = jax.jit(module.apply)
    for text, same in (("", True), (" \n\u3000", True), ("cat", False)):
        found = condition(variables, tokens_of(tokenizer, text))
        for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(null), strict=True):
            if same:
                np.testing.assert_array_equal(got, expected)
            else:
                assert np.abs(got - expected).max() > 0.01


def tokens_of(tokenizer, text):
    return {"tokens": jnp.asarray(tokenizer(text))[None, :]}
