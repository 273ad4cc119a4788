import json

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import SHAPES_VOCABULARY, Shapes
from ldm_jax.data.tokenizers import HuggingFaceTokenizer, WordTokenizer


def test_words_in_order_after_padding_and_unknown():
    tokenizer = WordTokenizer(("cat", "Dog"), length=4)
    assert tokenizer.vocab_size == 4
    assert tokenizer("A DOG, cat!").tolist() == [1, 3, 2, 0]
    assert tokenizer("A DOG").dtype == np.int32
    assert tokenizer("").tolist() == tokenizer.empty.tolist() == [0, 0, 0, 0]
    assert tokenizer.truncated == 0


def test_fingerprints_tell_word_lists_and_lengths_apart():
    one = WordTokenizer(("cat", "dog"), length=2)
    one("cat dog cat")
    assert one.fingerprint() == WordTokenizer(("cat", "dog"), length=2).fingerprint()
    others = [WordTokenizer(("dog", "cat"), length=2), WordTokenizer(("cat", "dog"), length=3)]
    assert one.fingerprint() not in [other.fingerprint() for other in others]


def test_truncation_is_counted():
    tokenizer = WordTokenizer(("cat",), length=2)
    assert tokenizer("cat dog cat").tolist() == [2, 1]
    assert tokenizer("cat cat").tolist() == [2, 2]
    assert tokenizer.truncated == 1


def test_shapes_vocabulary_covers_the_shapes():
    tokenizer = WordTokenizer("shapes", length=26)
    assert tokenizer.vocab_size == len(SHAPES_VOCABULARY) + 2
    source = Shapes(8, num_examples=100)
    assert all(1 not in tokenizer(source[i]["text"]) for i in range(100))
    assert tokenizer.truncated == 0


def test_vocabulary_file(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("Haus\n\nötzi\n", encoding="utf-8")
    assert WordTokenizer(str(file), length=2)("Ötzi haus").tolist() == [3, 2]


def test_word_tokenizer_errors(tmp_path):
    with pytest.raises(
        UserError, match=r"got 'nope.txt', which is no file. Legal: 'shapes', words"
    ):
        WordTokenizer("nope.txt")
    with pytest.raises(UserError, match=r"'a' occurs twice. Legal: distinct words"):
        WordTokenizer(("a", "b", "A"))
    with pytest.raises(UserError, match="got no words"):
        WordTokenizer(())
    with pytest.raises(UserError, match=r"tokenizer.length: got 0. Legal: at least 1"):
        WordTokenizer(length=0)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    import tokenizers  # comes with transformers, slow to load

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cat"]
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    core = tokenizers.Tokenizer(model)
    core.normalizer = tokenizers.normalizers.BertNormalizer()
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    core.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_hugging_face_pads_truncates_and_counts(bert_folder):
    tokenizer = HuggingFaceTokenizer(str(bert_folder), length=5)
    assert tokenizer.vocab_size == 7
    assert tokenizer("A red cat").tolist() == [2, 4, 5, 6, 3]
    assert tokenizer("red").tolist() == [2, 5, 3, 0, 0]
    assert tokenizer.empty.tolist() == [2, 3, 0, 0, 0]
    assert tokenizer.truncated == 0
    assert tokenizer("a red red cat").tolist() == [2, 4, 5, 5, 3]
    assert tokenizer.truncated == 1
    assert tokenizer("red").dtype == np.int32


def test_hugging_face_errors(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*missing.*tokenizer.json"):
        HuggingFaceTokenizer(str(tmp_path / "missing"))
    (tmp_path / "other.bin").write_text("")
    with pytest.raises(UserError, match=r"holds no tokenizer .* found: other.bin"):
        HuggingFaceTokenizer(str(tmp_path))


def test_a_hugging_face_fingerprint_outlives_a_call(bert_folder):
    one = HuggingFaceTokenizer(str(bert_folder), length=4)
    before = one.fingerprint()
    one("a red cat a red cat")
    assert one.fingerprint() == before
    assert HuggingFaceTokenizer(str(bert_folder), length=4).fingerprint() == before
    assert HuggingFaceTokenizer(str(bert_folder), length=5).fingerprint() != before
