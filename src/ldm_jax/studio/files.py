"""What comes from a browser and goes back: images in memory, with what made them inside.

Nothing here opens a path: uploads are bytes, read with a limit on bytes and on pixels before any
pixel is decoded.
"""

import base64
import io
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.painted import BROKEN_IMAGE, MAX_SIDE

MAX_UPLOAD = 20 * 2**20  # bytes
MAX_PIXELS = 4096 * 4096
MAX_TEXT = 16 * 2**20  # characters of parameters in a PNG
FORMATS = ("PNG", "JPEG", "WEBP")
KEY = "ldm_jax.studio"  # of the parameters in a PNG
_PIECE = 500_000  # characters of a text chunk: Pillow reads no longer one than a MiB


def read_upload(content: bytes, channels: int) -> np.ndarray:
    """Returns an uploaded image, uint8 [H, W, C], upright.

    Args:
      content: of the file.
      channels: 1 or 3.

    Raises:
      UserError: too many bytes or pixels, or no image.
    """
    with _opened(content) as opened:
        try:
            image = ImageOps.exif_transpose(opened).convert("RGB" if channels == 3 else "L")
        except BROKEN_IMAGE as error:
            raise UserError(f"upload: a broken image ({error}).") from error
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_array(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uploaded .npy array with one row or more of a shape.

    Raises:
      UserError: too many bytes, no such file, or another shape.
    """
    if len(content) > MAX_UPLOAD:
        raise UserError(f"upload: got {len(content):,} bytes. Legal: up to {MAX_UPLOAD:,}.")
    try:
        file = io.BytesIO(content)
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else _read_header_2
        told, _, dtype = read(file)
        if math.prod(told) * dtype.itemsize > len(content):
            raise ValueError("it promises more than it holds")
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise UserError(f"upload: not a .npy file of numbers ({error}).") from error
    if found.dtype.kind not in "biuf" or found.shape[-len(shape) :] != shape:
        raise UserError(f"upload: legal is a .npy array of numbers, of shape {list(shape)}.")
    return found.reshape(-1, *shape)


def fitted(image_u8: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image cut to the aspect ratio of `size` around its middle, and resized to it.

    Args:
      image_u8: uint8 [H, W, 1 or 3].
      size: (H, W).
    """
    if image_u8.shape[:2] == tuple(size):
        return image_u8
    grey = image_u8.shape[-1] == 1
    image = Image.fromarray(image_u8[..., 0] if grey else image_u8)
    pixels = np.asarray(ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC))
    return pixels[..., None] if grey else pixels


def png(image_u8: np.ndarray, parameters: Mapping[str, Any] | None = None) -> bytes:
    """Returns a uint8 image [H, W, 1 or 3] or [H, W] as PNG, with what made it inside."""
    grey = image_u8.ndim == 3 and image_u8.shape[-1] == 1
    image = Image.fromarray(image_u8[..., 0] if grey else image_u8)
    info = PngInfo()
    text = "" if parameters is None else json.dumps(parameters)
    for number, start in enumerate(range(0, len(text), _PIECE)):
        info.add_itxt(f"{KEY}.{number}", text[start : start + _PIECE], zip=True)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def read_parameters(content: bytes) -> dict[str, Any]:
    """Returns what `png` put into an image.

    Raises:
      UserError: there is nothing of ours in it.
    """
    with _opened(content) as opened:
        if opened.format != "PNG":
            raise UserError("upload: parameters are in PNGs that the studio wrote, not in others.")
        try:
            opened.load()  # text may stand after the pixels
            pieces = dict(opened.text)  # type: ignore[attr-defined]
        except BROKEN_IMAGE as error:
            raise UserError(f"upload: a broken PNG ({error}).") from error
    numbers = itertools.takewhile(lambda k: f"{KEY}.{k}" in pieces, itertools.count())
    text = "".join(pieces[f"{KEY}.{k}"] for k in numbers)
    if not text:
        raise UserError("upload: this PNG holds no parameters of the studio.")
    if len(text) > MAX_TEXT:
        raise UserError(f"upload: parameters of {len(text):,} characters. Legal: {MAX_TEXT:,}.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"upload: the parameters in this PNG are broken ({error}).") from error
    if not isinstance(found, dict):
        raise UserError("upload: the parameters in this PNG are broken.")
    return found


def as_data_url(image_u8: np.ndarray) -> str:
    """Returns an image as a page shows it without asking for a file."""
    return f"data:image/png;base64,{base64.b64encode(png(image_u8)).decode()}"


def read_data_url(text: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns a mask that the page's easel has painted, uint8 [H, W], resized where it must be.

    Raises:
      UserError: no PNG, or too large a one.
    """
    head = "data:image/png;base64,"
    if not isinstance(text, str) or not text.startswith(head):
        raise UserError("mask: legal is what the page paints, a PNG.")
    try:
        content = base64.b64decode(text.removeprefix(head), validate=True)
    except ValueError as error:
        raise UserError(f"mask: not in base64 ({error}).") from error
    found = read_upload(content, 1)[..., 0]
    if max(found.shape) > MAX_SIDE:
        raise UserError(f"mask: got {found.shape} pixels. Legal: up to {MAX_SIDE} a side.")
    if found.shape == tuple(size):
        return found
    image = Image.fromarray(found)  # painted over a picture of another size
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _read_header_2(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    return np.lib.format.read_array_header_2_0(file)


def _opened(content: bytes) -> Image.Image:
    """Returns an image of which nothing but its head is read."""
    if len(content) > MAX_UPLOAD:
        raise UserError(f"upload: got {len(content):,} bytes. Legal: up to {MAX_UPLOAD:,}.")
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    except BROKEN_IMAGE as error:
        legal = ", ".join(FORMATS)
        raise UserError(f"upload: not an image that can be read. Legal: {legal}.") from error
    if opened.width * opened.height > MAX_PIXELS:
        raise UserError(
            f"upload: got {opened.height:,} x {opened.width:,} pixels. Legal: up to "
            f"{MAX_PIXELS:,} in all."
        )
    return opened


def link(name: str, content: bytes, kind: str, label: str | None = None) -> str:
    """Returns HTML of a link that saves a file, which is in the link itself."""
    data = base64.b64encode(content).decode()
    return f'<a class="save" download="{name}" href="data:{kind};base64,{data}">{label or name}</a>'
