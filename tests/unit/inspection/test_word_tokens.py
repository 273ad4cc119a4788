"""Which tokens are which word, for tokenizers of several kinds."""

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.inspection.words import word_tokens


class Pieces:
    """Start 1, then a token for every two letters of a word, end 2, padded with `pad`."""

    def __init__(self, length=12, pad=2):
        self.length, self.pad_id, self.truncated = length, pad, 0
        self.empty = self("")

    def __call__(self, text):
        pieces = [word[k : k + 2] for word in text.split() for k in range(0, len(word), 2)]
        ids = [1, *(10 + sum(map(ord, piece)) for piece in pieces)]
        self.truncated += len(ids) + 1 > self.length
        ids = [*ids[: self.length - 1], 2]
        return np.array(ids + [self.pad_id] * (self.length - len(ids)), np.int32)


def test_one_token_a_word():
    found = word_tokens(WordTokenizer(length=8), "A large, red - circle")
    assert found == [  # the dash has no token
        ("A", slice(0, 1)),
        ("large,", slice(1, 2)),
        ("red", slice(2, 3)),
        ("circle", slice(3, 4)),
    ]


@pytest.mark.parametrize("pad", [0, 2])
def test_start_end_and_padding_are_of_no_word(pad):
    expected = [("a", slice(1, 2)), ("circle", slice(2, 5)), ("red", slice(5, 7))]
    assert word_tokens(Pieces(pad=pad), "a circle red") == expected
    # No room is left for padding, nor behind the end token.
    assert word_tokens(Pieces(length=8, pad=pad), "a circle red") == expected


def test_a_caption_that_fills_the_whole_length():
    assert word_tokens(WordTokenizer(length=2), "red circle")[-1] == ("circle", slice(1, 2))


def test_captions_that_are_cut_or_empty_are_refused():
    with pytest.raises(UserError) as error:
        word_tokens(WordTokenizer(length=2), "a red circle")
    assert str(error.value) == (
        "attention: the prompt has more than 2 tokens, and what is cut has no map. Legal: a "
        "shorter one."
    )
    with pytest.raises(UserError) as error:
        word_tokens(WordTokenizer(length=2), " - ")
    assert str(error.value) == "attention: got the prompt ' - '. Legal: at least one word."
