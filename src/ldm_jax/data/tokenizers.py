"""From captions to token ids: a word list of one's own, or a Hugging Face tokenizer."""

import copy
import hashlib
import json
import pathlib
import threading
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import regex

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data.clip_bpe import clip_tokenizer
from ldm_jax.data.shapes import SHAPES_VOCABULARY

# Letters and digits of any script, with their marks. The same in the tokenizers library.
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*")


class Tokenizer(Protocol):
    """Turns a caption into a fixed number of ids; safe under several threads.

    Attributes:
      length: tokens per caption.
      vocab_size: ids are in [0, vocab_size).
      pad_id: the id that fills up.
      empty: int32 [length], the ids of "", for the unconditional branch of guidance.
      truncated: how many captions so far did not fit into `length`.
    """

    length: int
    vocab_size: int
    pad_id: int
    empty: np.ndarray
    truncated: int

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length]."""
        ...

    def save(self, folder: pathlib.Path, *, with_padding: bool) -> None:
        """Writes the tokenizer as a Hugging Face folder."""
        ...

    def fingerprint(self) -> str:
        """Returns a hash of all that ids follow from, in hex."""
        ...


class WordTokenizer:
    """One id per lower-cased word: 0 pads, 1 is any unknown word, then the vocabulary in order.

    Texts are compared in Unicode's composed form (NFC), so that an accent may be a mark of its own.

    Args:
      vocabulary: 'shapes' for the words of `ldm_jax.data.shapes`, a sequence of words, or the
        path of a text file with one word per line.
      length: tokens per caption; further words are dropped and counted in `truncated`.

    Attributes:
      words: the vocabulary.
    """

    PADDING, UNKNOWN = 0, 1

    def __init__(self, vocabulary: str | Sequence[str] = "shapes", length: int = 32):
        words = _read_vocabulary(vocabulary)
        if not words:
            raise UserError("tokenizer.vocabulary: got no words. Legal: at least one.")
        if len(set(words)) != len(words):
            twice = next(word for word in words if words.count(word) > 1)
            raise UserError(f"tokenizer.vocabulary: {twice!r} occurs twice. Legal: distinct words.")
        self.length = _check_length(length)
        self.words = words
        self.vocab_size = len(words) + 2
        self.pad_id = self.PADDING
        self.empty = np.zeros(length, np.int32)
        self.truncated = 0
        self._lock = threading.Lock()
        self._ids = {word: k + 2 for k, word in enumerate(words)}

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length], zeros after the last word."""
        ids = [self._ids.get(word, self.UNKNOWN) for word in _WORD.findall(_folded(text))]
        if len(ids) > self.length:
            with self._lock:
                self.truncated += 1
        tokens = np.full(self.length, self.PADDING, np.int32)
        tokens[: len(ids)] = ids[: self.length]
        return tokens

    def fingerprint(self) -> str:
        """Returns a hash of the words and the length."""
        return hashlib.sha256(json.dumps([self.length, self.words]).encode()).hexdigest()

    def save(self, folder: pathlib.Path, *, with_padding: bool = True) -> None:
        """Writes a Hugging Face folder that gives the same ids; `with_padding` makes no difference.

        Args:
          folder: where.
          with_padding: as in `HuggingFaceTokenizer.save`.
        """
        del with_padding
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        padding, unknown = "[PAD]", "[UNK]"
        ids = {padding: self.PADDING, unknown: self.UNKNOWN, **self._ids}
        core = Tokenizer(models.WordLevel(ids, unk_token=unknown))
        core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        core.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD.pattern), "removed", invert=True)
        whole = PreTrainedTokenizerFast(
            tokenizer_object=core,
            pad_token=padding,
            unk_token=unknown,
            model_max_length=self.length,
        )
        whole.save_pretrained(str(folder))


class HuggingFaceTokenizer:
    """The tokenizer in a local Hugging Face folder, padded and truncated to `length`.

    Special tokens and the padding id are those of the folder; where it names no padding token,
    the end token pads, as in CLIP. Texts are handed over as they are, without a normalisation of
    ours, so ids are those of the folder's own tokenizer; but a text of white space alone is the
    empty one, whatever that tokenizer makes of it, and half a surrogate pair, which is no
    character, becomes U+FFFD.

    Args:
      path: folder with tokenizer.json, or vocabulary files that `AutoTokenizer` reads; or CLIP's
        list of merges, bpe_simple_vocab_16e6.txt.gz. Nothing is downloaded.
      length: tokens per caption with its special tokens (77 in the paper's text models).
      pad_token: instead of the folder's own; '!' for OpenCLIP's models, which pad with id 0. It is
        not made special: a '!' in a caption stays what it is.
    """

    def __init__(self, path: str, length: int = 77, pad_token: str | None = None):
        source = pathlib.Path(path).expanduser()
        if not source.exists():
            raise UserError(
                f"tokenizer.path: no folder {str(source)!r}. Expected a local Hugging Face folder "
                "with tokenizer.json, or CLIP's bpe_simple_vocab_16e6.txt.gz."
            )
        self.length = _check_length(length)
        self._tokenizer = _load_huggingface(source)
        self._pad_token = pad_token or self._tokenizer.pad_token
        self.pad_id = self._tokenizer.convert_tokens_to_ids(self._pad_token)
        # Its Rust core keeps truncation and padding as state and is not safe under threads.
        self._lock = threading.Lock()
        # Ids may have gaps, so that the largest says more than their number.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        self.truncated = 0
        self.empty = self("")

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length]."""
        text = _characters(text) if text.strip() else ""
        with self._lock:
            ids = self._ids(text, self.length)
            if len(ids) == self.length:  # one more token is asked for: a text may have a million
                self.truncated += len(self._ids(text, self.length + 1)) > self.length
        return np.asarray(ids + [self.pad_id] * (self.length - len(ids)), np.int32)

    def fingerprint(self) -> str:
        """Returns a hash of the tokenizer's file, the padding and the length."""
        core = getattr(self._tokenizer, "backend_tokenizer", None)
        with self._lock:
            parts = json.loads(core.to_str()) if core else {"vocab": self._tokenizer.get_vocab()}
        for state in ("truncation", "padding"):  # of the last call
            parts.pop(state, None)
        text = json.dumps([self.length, self.pad_id, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _ids(self, text: str, most: int) -> list[int]:
        return self._tokenizer(text, truncation=True, max_length=most)["input_ids"]

    def save(self, folder: pathlib.Path, *, with_padding: bool) -> None:
        """Writes the tokenizer as a Hugging Face folder.

        Args:
          folder: where.
          with_padding: name the padding token, which transformers then takes for a special one.
        """
        tokenizer = copy.deepcopy(self._tokenizer)
        if with_padding:
            tokenizer.pad_token = self._pad_token
        tokenizer.save_pretrained(str(folder))


def _load_huggingface(folder: pathlib.Path):
    from transformers import AutoTokenizer  # costs seconds to import

    if folder.is_file():
        return clip_tokenizer(folder)
    found = ", ".join(sorted(item.name for item in folder.iterdir())) or "nothing"
    unreadable = UserError(
        f"tokenizer.path: {str(folder)!r} holds no tokenizer that transformers can read; "
        f"found: {found}. Expected tokenizer.json or vocabulary files."
    )
    try:
        # Not given, it would be asked for on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"tokenizer.path: {str(folder)!r} brings code of its own (auto_map), which is not "
                "run. Legal: a tokenizer of transformers itself, such as one with tokenizer.json."
            ) from error
        raise unreadable from error
    # With a model's config.json alone, transformers makes a tokenizer to which all is unknown.
    files = tokenizer.vocab_files_names.values()
    if files and not any((folder / name).is_file() for name in files):
        raise unreadable
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"tokenizer.path: {str(folder)!r} names no padding and no end token.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_length(length: int) -> int:
    if length < 1:
        raise UserError(f"tokenizer.length: got {length}. Legal: at least 1.")
    return length


def _read_vocabulary(vocabulary: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(vocabulary, str):
        return tuple(_folded(word) for word in vocabulary)
    if vocabulary == "shapes":
        return SHAPES_VOCABULARY
    path = pathlib.Path(vocabulary).expanduser()
    if not path.is_file():
        raise UserError(
            f"tokenizer.vocabulary: got {vocabulary!r}, which is no file. Legal: 'shapes', words, "
            "or the path of a text file with one word per line."
        )
    lines = read_text(path, "tokenizer.vocabulary").splitlines()
    return tuple(_folded(line.strip()) for line in lines if line.strip())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()


def _characters(text: str) -> str:
    """Returns the text with its surrogate pairs joined, and U+FFFD for halves of pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
