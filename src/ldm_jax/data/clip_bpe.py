"""CLIP's tokenizer from its list of merges, the one file of it that packages carry.

`bpe_simple_vocab_16e6.txt.gz` is in OpenAI's CLIP and in open-clip-torch.
"""

import gzip
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY = 49408


def clip_tokenizer(path: Path) -> Any:
    """Returns the Hugging Face tokenizer that a list of merges makes.

    Ids are 256 bytes, the same at a word's end, one per merge in order, start and end (Radford et
    al. 2021, section 2.4; 49,408 in all for the published list, which goes on beyond that).

    Args:
      path: text, gzipped or not: a line of version, then two symbols a line.

    Raises:
      UserError: it is not such a file.
    """
    from transformers import CLIPTokenizer

    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()[1:]
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"tokenizer.path={path}: no list of CLIP's merges ({error}).") from error
    letters = _byte_letters()
    room = _VOCABULARY - 2 * len(letters) - 2
    merges: list[Any] = [tuple(line.split()) for line in lines[:room] if line.strip()]
    if not merges or any(len(merge) != 2 for merge in merges):
        raise UserError(
            f"tokenizer.path={path}: expected two symbols a line after the first one. Legal: "
            "CLIP's bpe_simple_vocab_16e6.txt.gz, or a Hugging Face folder."
        )
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    ids = {token: k for k, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=ids, merges=merges)


def _byte_letters() -> list[str]:
    """Returns the printable letter that stands for each byte, in CLIP's order.

    Bytes that Latin-1 prints stand for themselves and come first; the others follow from 256 on.
    """
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + k) for k in range(len(hidden))]
