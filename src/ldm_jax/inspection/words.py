"""Which tokens of a caption are which of its words."""

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import Tokenizer


def word_tokens(tokenizer: Tokenizer, text: str) -> list[tuple[str, slice]]:
    """Returns the words of a text between its spaces, each with the places of its tokens.

    Found by tokenizing the text word by word, so that any tokenizer will do; a word without a
    token, such as a dash to some, is left out, and so are start, end and padding tokens.

    Args:
      tokenizer: of the model.
      text: the caption.

    Raises:
      UserError: it has no words, or more tokens than the model reads.
    """
    before = tokenizer.truncated
    ids = tokenizer(text)
    if tokenizer.truncated > before:
        raise UserError(
            f"attention: the prompt has more than {tokenizer.length} tokens, and what is cut has "
            "no map. Legal: a shorter one."
        )
    start = _first(tokenizer.empty != ids)
    found, stop = [], start
    words = text.split()
    for k, word in enumerate(words, start=1):
        first, stop = stop, _end(tokenizer, " ".join(words[:k]), start)
        if stop > first:
            found.append((word, slice(first, stop)))
    if not found:
        raise UserError(f"attention: got the prompt {text!r}. Legal: at least one word.")
    return found


def _end(tokenizer: Tokenizer, text: str, start: int) -> int:
    """Returns the place after the last token of a text whose tokens begin at `start`."""
    # What the empty text has there, the end token or padding, follows any text.
    rest = tokenizer(text)[start:]
    return start + _first(rest == tokenizer.empty[start : start + 1])


def _first(found: np.ndarray) -> int:
    """Returns the place of the first True, or the length without any."""
    return int(np.argmax(found)) if found.any() else len(found)
