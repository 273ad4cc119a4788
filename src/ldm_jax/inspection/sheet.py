"""Images and maps side by side in one picture, with labels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MIN_SIDE = 96  # pixels that a label needs
_LINE, _BORDER = 14, 3
_HEAT = np.array([255.0, 70.0, 0.0])
_OPACITY = 0.75


class Cell(NamedTuple):
    """One image of a sheet.

    Attributes:
      image: uint8 [h, w, 1 or 3].
      label: written above it, as far as it is wide.
    """

    image: np.ndarray
    label: str = ""


def sheet(title: Sequence[str], rows: Sequence[Sequence[Cell]]) -> np.ndarray:
    """Returns rows of labelled images on white under the lines of a title, uint8 [H, W, 3].

    All are enlarged to one size without smoothing: a pixel, or a cell of a latent, is a block.

    Args:
      title: lines of text, broken where they are wider than the images.
      rows: of images; they may differ in length.
    """
    height, width = _cell_size([cell.image for row in rows for cell in row])
    full = max(len(row) for row in rows) * (width + _BORDER) + _BORDER
    lines = [piece for line in title for piece in _broken(line, full - 2 * _BORDER)]
    top = len(lines) * _LINE + _BORDER
    step = _LINE + height + _BORDER
    picture = Image.new("RGB", (full, top + len(rows) * step), "white")
    for k, line in enumerate(lines):
        picture.paste(_text(line, full - 2 * _BORDER), (_BORDER, k * _LINE))
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            left, above = _BORDER + j * (width + _BORDER), top + i * step
            picture.paste(_text(cell.label, width), (left, above))
            image = Image.fromarray(as_rgb(cell.image))
            large = image.resize((width, height), Image.Resampling.NEAREST)
            picture.paste(large, (left, above + _LINE))
    return np.asarray(picture)


def grey_map(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns numbers [h, w] as uint8 [h, w, 1]: `low` and below is black, `high` white."""
    share = (np.asarray(values, np.float64) - low) / ((high - low) or 1.0)
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)[..., None]


def heat_over(image: np.ndarray, values: np.ndarray, high: float) -> np.ndarray:
    """Returns a grey copy of an image, the more orange the larger a map is, uint8 [H, W, 3].

    Args:
      image: uint8 [H, W, 1 or 3].
      values: [h, w] of 0 and more, interpolated to the image's size.
      high: the value of full colour.
    """
    height, width = image.shape[:2]
    small = Image.fromarray((np.asarray(values) / (high or 1.0)).astype(np.float32))
    share = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)), 0, 1)
    weight = _OPACITY * share[..., None].astype(np.float64)
    grey = as_rgb(image).mean(axis=-1, keepdims=True)
    return np.round((1 - weight) * grey + weight * _HEAT).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Returns a uint8 image [h, w, 1 or 3] as [h, w, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8)


def _cell_size(images: Sequence[np.ndarray]) -> tuple[int, int]:
    """Returns the height and width of all cells: the largest image's, or a multiple of it."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    factor = max(1, math.ceil(_MIN_SIDE / width))
    return factor * height, factor * width


def _text(line: str, width: int) -> Image.Image:
    """Returns a line of text that is cut at a width."""
    image = Image.new("RGB", (width, _LINE), "white")
    ImageDraw.Draw(image).text((0, 0), line, fill="black", font=ImageFont.load_default())
    return image


def _broken(line: str, width: int) -> list[str]:
    """Returns a line as several, each at most so wide unless a word alone is wider."""
    font, pieces = ImageFont.load_default(), [""]
    for word in line.split():
        longer = f"{pieces[-1]} {word}".strip()
        if pieces[-1] and font.getlength(longer) > width:
            pieces.append(word)
        else:
            pieces[-1] = longer
    return pieces
