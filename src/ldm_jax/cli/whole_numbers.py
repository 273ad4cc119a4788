"""Whole numbers as values of flags."""

import argparse
from collections.abc import Callable


def whole(minimum: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `minimum` to 2^32 - 1, for `add_argument`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number from {minimum} to 2^32 - 1"
            )
        return int(text)

    return parse
