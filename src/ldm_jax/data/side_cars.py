"""Maps, masks and boxes that lie beside an image: from files and JSON to arrays."""

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ldm_jax.data.file_source import BadExample, reason

MAPS = ("segmentation", "mask")
# Pillow stretches few-bit greys to 0 .. 255; what one step of theirs becomes.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_MAX_CLASS = 2**24 - 1  # of a box: float32 tells whole numbers apart up to here


def decode_map(file: str | BinaryIO) -> np.ndarray:
    """Returns the numbers stored in an image file, uint8 [H, W].

    Of a palette image the indices, not the colours; of a grey one the greys; of a black and white
    one 0 and 1. Colours count as grey where red, green and blue are everywhere the same.

    Raises:
      BadExample: the pixels are no numbers from 0 to 255.
      OSError, SyntaxError, ValueError, ...: whatever Pillow raises for a broken file.
    """
    with Image.open(file) as opened:
        stored = opened.tile[0].args if opened.tile else None
        image = ImageOps.exif_transpose(opened)
        pixels = np.asarray(image)
        mode = image.mode
    if mode == "RGB" and (pixels == pixels[:, :, :1]).all():
        return np.ascontiguousarray(pixels[:, :, 0])
    if mode.startswith("I") and pixels.min() >= 0 and pixels.max() <= 255:
        return pixels.astype(np.uint8)
    if mode not in ("1", "L", "P"):
        raise BadExample(f"a map of mode {mode}, expected palette or grey with numbers 0 to 255")
    return pixels.astype(np.uint8) // _GREY_STEPS.get(str(stored), 1)


def as_mask(numbers: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W] of 0 and 1, from numbers that are 0 and one other.

    Raises:
      BadExample: there are more numbers, or no 0 among two.
    """
    found = np.unique(numbers)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        some = ", ".join(map(str, found[:4])) + (", …" if len(found) > 4 else "")
        raise BadExample(f"a mask of the values {some}, expected 0 and one other")
    return (numbers != 0).astype(np.uint8)


def read_map(name: str, file: str | BinaryIO, where: str, image: np.ndarray) -> np.ndarray:
    """Returns the segmentation or mask of an image, uint8 [H, W].

    Args:
      name: one of `MAPS`.
      file: where it is read from.
      where: its name, for messages.
      image: [H, W, C].

    Raises:
      BadExample: it is none, or of another size.
      OSError, SyntaxError, ValueError, ...: whatever Pillow raises for a broken file.
    """
    try:
        numbers = decode_map(file)
        if numbers.shape != image.shape[:2]:
            raise BadExample(
                f"{numbers.shape[1]} × {numbers.shape[0]} pixels, but the image has "
                f"{image.shape[1]} × {image.shape[0]}"
            )
        return as_mask(numbers) if name == "mask" else numbers
    except BadExample as error:
        raise BadExample(f"{where}: {error}") from error
    except OSError as error:
        raise BadExample(f"{where}: {reason(error)}") from error


def parse_boxes(value: Any) -> np.ndarray:
    """Returns float32 [n, 5] from a list of [x0, y0, x1, y1, class]; None has no boxes.

    Raises:
      BadExample: it is no such list, naming the first row that is wrong.
    """
    if value is None:
        return np.zeros((0, 5), np.float32)
    if not isinstance(value, list):
        raise BadExample(f"boxes are {_short(value)}, expected a list")
    for row in value:
        if not _is_box(row):
            raise BadExample(
                f"the box {_short(row)}, expected [x0, y0, x1, y1, class] with 0 <= x0 < x1 <= 1, "
                f"0 <= y0 < y1 <= 1 and a whole class, 0 to {_MAX_CLASS}"
            )
    return np.asarray(value, np.float32).reshape(-1, 5)


def pad_boxes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Returns float32 [count, 5]: the boxes, then rows of -1.

    Raises:
      BadExample: there are more.
    """
    if len(boxes) > count:
        raise BadExample(f"{len(boxes)} boxes, expected at most {count}")
    return np.pad(boxes, ((0, count - len(boxes)), (0, 0)), constant_values=-1.0)


def pad_all_boxes(boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns all of the same length, that of the longest, and at least one row."""
    count = max([1, *map(len, boxes)])
    return [pad_boxes(each, count) for each in boxes]


def _is_box(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 5:
        return False
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in row):
        return False
    x0, y0, x1, y1, label = row
    inside = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    return inside and 0 <= label <= _MAX_CLASS and label == int(label)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
