"""What sources of files share: a broken file is set aside, and a neighbour stands in for it."""

import abc
import re
import struct
import threading
import zlib
from collections.abc import Iterable
from typing import Any

from absl import logging
from PIL import Image

from ldm_jax.core.checks import UserError, shortened

# What Pillow and the readers of records raise for broken files, format by format.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Pillow's name of the file, which the name of the example tells, or its address in memory.
_FILE = re.compile(r"(cannot identify image file) .*")


class FileSource(abc.ABC):
    """A source whose examples come from files that may be missing or broken.

    Such an example is quarantined: the next readable one takes its place, always the same, so that
    batches keep their size and a resumed run sees the same examples.

    Args:
      where: the folder or files, for messages.
      max_bad_fraction: reading stops when more than this part of the examples is quarantined.

    Attributes:
      class_names: as in `Source`.
      quarantine: name of an example -> reason, filled as examples are met.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(self, where: str, max_bad_fraction: float):
        self.max_bad_fraction = max_bad_fraction
        self.quarantine: dict[str, str] = {}
        self._where = where
        self._lock = threading.Lock()

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples, bad ones included."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Returns where example `index` comes from, such as its path."""

    @abc.abstractmethod
    def load(self, index: int) -> dict[str, Any]:
        """Returns example `index`, or raises any of `UNREADABLE`."""

    @abc.abstractmethod
    def image_bytes(self, index: int) -> bytes:
        """Returns the file of the image of example `index`, as it is stored."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns example `index`, or the next readable one, which tells its own `index`.

        Raises:
          UserError: when too many files are unreadable.
        """
        following = ((index + step) % len(self) for step in range(len(self)))
        chosen, example = self.first_readable(following)
        return example if chosen == index else {**example, "index": chosen}

    def first_readable(self, indices: Iterable[int]) -> tuple[int, dict[str, Any]]:
        """Returns the first of some examples that can be read, after its index.

        Raises:
          UserError: none can, or too many files are unreadable.
        """
        for index in indices:
            example = self.read(index)
            if example is not None:
                return index, example
        raise UserError(f"data.source.path: none of the images in {self._where} can be read.")

    def read(self, index: int) -> dict[str, Any] | None:
        """Returns example `index` itself, or None if it is quarantined, as it may be by this call.

        Raises:
          UserError: when too many files are unreadable.
        """
        name = self.name(index)
        if name in self.quarantine:
            return None
        try:
            example = self.load(index)
            height, width = example["image"].shape[:2]
            if min(height, width) < 2:  # a tracking pixel, a ruler: nothing to learn from
                raise BadExample(f"{width}x{height} pixels")
            return example
        except UNREADABLE as error:
            self.set_aside({name: reason(error)})
            return None

    def set_aside(self, reasons: dict[str, str]) -> None:
        """Quarantines examples by name.

        Raises:
          UserError: when these are too many.
        """
        with self._lock:
            for name, why in reasons.items():
                if name not in self.quarantine:
                    self.quarantine[name] = why
                    logging.warning("quarantined %s: %s", shortened(name), shortened(why))
            bad, total = len(self.quarantine), len(self)
            if bad > self.max_bad_fraction * total:
                raise UserError(self.too_many_bad(self.max_bad_fraction))

    def too_many_bad(self, max_bad_fraction: float) -> str:
        """Returns the message that the quarantine holds more than this part of the examples."""
        bad, total = len(self.quarantine), len(self)
        first = list(self.quarantine.items())[:3]
        some = "; ".join(f"{shortened(name)} ({shortened(why)})" for name, why in first)
        return (
            f"data.source.path: {bad} of {total} images ({bad / total:.1%}) in {self._where}"
            f" are missing or unreadable, such as {some}. Legal: at most "
            f"max_bad_fraction={max_bad_fraction}."
        )


class BadExample(ValueError):
    """What is wrong with an example, in words that need no type of error before them."""


def reason(error: Exception) -> str:
    """Returns one line about why a file cannot be read."""
    if isinstance(error, BadExample):
        return str(error)
    text = _FILE.sub(r"\1", f"{type(error).__name__}: {error}")
    return " ".join(text.split())
