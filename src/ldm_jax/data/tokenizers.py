"""From captions to token ids: a word list of one's own, or a Hugging Face tokenizer."""

import pathlib
import re
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data.shapes import SHAPES_VOCABULARY

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class Tokenizer(Protocol):
    """Turns a caption into a fixed number of ids; safe under several threads.

    Attributes:
      length: tokens per caption.
      vocab_size: ids are in [0, vocab_size).
      empty: int32 [length], the ids of "", for the unconditional branch of guidance.
      truncated: how many captions so far did not fit into `length`.
    """

    length: int
    vocab_size: int
    empty: np.ndarray
    truncated: int

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length]."""
        ...


class WordTokenizer:
    """One id per lower-cased word: 0 pads, 1 is any unknown word, then the vocabulary in order.

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
        self.empty = np.zeros(length, np.int32)
        self.truncated = 0
        self._lock = threading.Lock()
        self._ids = {word: k + 2 for k, word in enumerate(words)}

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length], zeros after the last word."""
        ids = [self._ids.get(word, self.UNKNOWN) for word in _WORD.findall(text.lower())]
        if len(ids) > self.length:
            with self._lock:
                self.truncated += 1
        tokens = np.full(self.length, self.PADDING, np.int32)
        tokens[: len(ids)] = ids[: self.length]
        return tokens


class HuggingFaceTokenizer:
    """The tokenizer in a local Hugging Face folder, padded and truncated to `length`.

    Special tokens and the padding id are those of the folder; where it names no padding token,
    the end token pads, as in CLIP.

    Args:
      path: folder with tokenizer.json, or vocabulary files that `AutoTokenizer` reads. Nothing is
        downloaded.
      length: tokens per caption with its special tokens (77 in the paper's text models).
    """

    def __init__(self, path: str, length: int = 77):
        folder = pathlib.Path(path).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"tokenizer.path: no folder {str(folder)!r}. Expected a local Hugging Face folder "
                "with tokenizer.json."
            )
        self.length = _check_length(length)
        self._tokenizer = _load_huggingface(folder)
        # Its Rust core keeps truncation and padding as state and is not safe under threads.
        self._lock = threading.Lock()
        self.vocab_size = len(self._tokenizer)
        self.truncated = 0
        self.empty = self("")

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [length]."""
        with self._lock:
            fitted = self._tokenizer(
                text, padding="max_length", truncation=True, max_length=self.length
            )
            if sum(fitted["attention_mask"]) == self.length:
                whole = self._tokenizer(text, verbose=False)["input_ids"]
                self.truncated += len(whole) > self.length
        return np.asarray(fitted["input_ids"], np.int32)


def _load_huggingface(folder: pathlib.Path):
    from transformers import AutoTokenizer  # costs seconds to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        found = ", ".join(sorted(item.name for item in folder.iterdir())) or "nothing"
        raise UserError(
            f"tokenizer.path: {str(folder)!r} holds no tokenizer that transformers can read; "
            f"found: {found}. Expected tokenizer.json or vocabulary files."
        ) from error
    tokenizer.padding_side = "right"
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
        return tuple(word.lower() for word in vocabulary)
    if vocabulary == "shapes":
        return SHAPES_VOCABULARY
    path = pathlib.Path(vocabulary).expanduser()
    if not path.is_file():
        raise UserError(
            f"tokenizer.vocabulary: got {vocabulary!r}, which is no file. Legal: 'shapes', words, "
            "or the path of a text file with one word per line."
        )
    lines = read_text(path, "tokenizer.vocabulary").splitlines()
    return tuple(line.strip().lower() for line in lines if line.strip())
