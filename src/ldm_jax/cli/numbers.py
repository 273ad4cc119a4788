"""The types of flags that are numbers, for `add_argument`."""

import argparse
import math
from collections.abc import Callable


def whole(minimum: int) -> Callable[[str], int]:
    """Returns the type of whole numbers from `minimum` to 2^32 - 1."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number from {minimum} to 2^32 - 1"
            )
        return int(text)

    return parse


def finite(text: str) -> float:
    """Returns a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number such as 2.0")
    return value
