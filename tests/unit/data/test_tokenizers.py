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


def test_the_largest_id_counts_where_ids_have_gaps(bert_folder, tmp_path):
    core = json.loads((bert_folder / "tokenizer.json").read_text())
    core["model"]["vocab"]["cat"] = 60
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    config = (bert_folder / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    tokenizer = HuggingFaceTokenizer(str(tmp_path), length=3)
    assert tokenizer("cat").tolist() == [2, 60, 3]
    assert tokenizer.vocab_size == 61


def test_which_token_pads(bert_folder):
    assert WordTokenizer(("cat",), length=2).pad_id == 0
    assert HuggingFaceTokenizer(str(bert_folder), length=2).pad_id == 0
    other = HuggingFaceTokenizer(str(bert_folder), length=4, pad_token="a")
    assert other.pad_id == 4
    assert other("red").tolist() == [2, 5, 3, 4]


def test_a_folder_with_a_model_and_no_vocabulary_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"holds no tokenizer .* found: config.json. Expected tok"):
        HuggingFaceTokenizer(str(tmp_path))


def test_hugging_face_errors(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*missing.*tokenizer.json"):
        HuggingFaceTokenizer(str(tmp_path / "missing"))
    (tmp_path / "other.bin").write_text("")
    with pytest.raises(UserError, match=r"holds no tokenizer .* found: other.bin"):
        HuggingFaceTokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "settings", "text"),
    [
        (
            "tokenizer_config.json",
            {"tokenizer_class": "E", "auto_map": {"AutoTokenizer": ["e.E", None]}},
            "brings code of its own (auto_map), which is not run. Legal: a tokenizer of "
            "transformers itself, such as one with tokenizer.json.",
        ),
        (
            "config.json",
            {"model_type": "x", "auto_map": {"AutoConfig": "e.E", "AutoTokenizer": "e.E"}},
            "holds no tokenizer that transformers can read; found: config.json, e.py. Expected "
            "tokenizer.json or vocabulary files.",
        ),
    ],
)
def test_code_in_a_folder_is_neither_run_nor_asked_about(
    tmp_path, monkeypatch, file, settings, text
):
    def ask(*_):
        pytest.fail("transformers asks on the terminal")

    monkeypatch.setattr("builtins.input", ask)
    sprung = tmp_path / "sprung"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "e.py").write_text(f"open({str(sprung)!r}, 'w')\nclass E: pass\n")
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / file).write_text(json.dumps(settings))
    with pytest.raises(UserError) as error:
        HuggingFaceTokenizer(str(folder))
    assert str(error.value) == f"tokenizer.path: {str(folder)!r} {text}"
    assert not sprung.exists()


ODD_TEXTS = {
    "lone surrogates": "cat \ud800 \udfff cat",
    "right to left": "\u05e9\u05dc\u05d5\u05dd cat \u202e\u0645\u0631\u062d\u0628\u0627",
    "joined emoji": "\U0001f469\u200d\U0001f680 cat \U0001f44b\U0001f3fd",
    "nul": "a\x00red\x00 cat",
    "many marks": "re\u0301d ca" + "\u0300\u0323" * 50 + "t",
    "noncharacters": "\uffff\ufdd0 cat \U0010ffff",
    "controls": "a\x07red\x1b[31m\tcat\u2028",
}


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory):
    """A byte-level tokenizer, as GPT-2's: white space has tokens."""
    import tokenizers

    folder = tmp_path_factory.mktemp("bytes")
    letters = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    model = tokenizers.models.BPE({letter: k for k, letter in enumerate(letters)}, [])
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=["words", "bert", "bytes"])
def any_tokenizer(request, bert_folder, byte_folder):
    if request.param == "words":
        return WordTokenizer(("a", "red", "cat", "r\u00e9d"), 9)
    return HuggingFaceTokenizer(str({"bert": bert_folder, "bytes": byte_folder}[request.param]), 9)


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=list(ODD_TEXTS))
def test_any_text_has_tokens(any_tokenizer, text):
    tokens = any_tokenizer(text)
    assert (tokens.shape, tokens.dtype) == ((9,), np.int32)
    assert tokens.min() >= 0
    assert tokens.max() < any_tokenizer.vocab_size
    assert tokens.tolist() != any_tokenizer.empty.tolist()


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000\u00a0"])
def test_white_space_is_the_empty_caption(any_tokenizer, text):
    np.testing.assert_array_equal(any_tokenizer(text), any_tokenizer.empty)
    assert any_tokenizer.truncated == 0


def test_a_long_text_is_cut_and_counted_once(any_tokenizer):
    count = 2**20 // 6 if isinstance(any_tokenizer, WordTokenizer) else 5000  # they are slow
    tokens = any_tokenizer("a cat " * count)
    np.testing.assert_array_equal(tokens, any_tokenizer("a cat " * 9))
    assert any_tokenizer.truncated == 2


def test_halves_of_a_pair_are_replaced_and_pairs_are_joined(byte_folder):
    tokenizer = HuggingFaceTokenizer(str(byte_folder), 20)
    pairs = {"\ud83d\ude00": "\U0001f600", "a\udc80b": "a\ufffdb"}
    for text, same in pairs.items():
        np.testing.assert_array_equal(tokenizer(text), tokenizer(same))


def test_hugging_face_text_is_not_normalised_by_us(byte_folder):
    tokenizer = HuggingFaceTokenizer(str(byte_folder), 20)
    assert tokenizer("\u00e9").tolist() != tokenizer("e\u0301").tolist()
    # Three bytes of the decomposed form, e and U+0301, then padding.
    assert (tokenizer("e\u0301") != tokenizer.empty).sum() == 3


def test_words_have_their_marks_and_accents_may_be_composed():
    words = ("\u00f6tzi", "\u0928\u092e\u0938\u094d\u0924\u0947", "e\u0301t\u00e9")
    tokenizer = WordTokenizer(words, 2)
    assert tokenizer("O\u0308TZI").tolist() == tokenizer("\u00d6tzi").tolist() == [2, 0]
    assert tokenizer(words[1]).tolist() == [3, 0]  # one word, though it has vowel signs
    assert tokenizer("\u00c9TE\u0301").tolist() == [4, 0]


def test_a_saved_word_tokenizer_reads_odd_texts_alike(tmp_path):
    tokenizer = WordTokenizer(("a", "red", "cat", "r\u00e9d", "\u0928\u092e\u0938\u094d"), 9)
    tokenizer.save(tmp_path)
    saved = HuggingFaceTokenizer(str(tmp_path), 9)
    for text in (*ODD_TEXTS.values(), "", " ", "O'Neil's \u0928\u092e\u0938\u094d\u2460"):
        np.testing.assert_array_equal(saved(text), tokenizer(text))


def test_a_hugging_face_fingerprint_outlives_a_call(bert_folder):
    one = HuggingFaceTokenizer(str(bert_folder), length=4)
    before = one.fingerprint()
    one("a red cat a red cat")
    assert one.fingerprint() == before
    assert HuggingFaceTokenizer(str(bert_folder), length=4).fingerprint() == before
    assert HuggingFaceTokenizer(str(bert_folder), length=5).fingerprint() != before
