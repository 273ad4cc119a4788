"""What comes from a browser and goes back: images in memory, with what made them inside.

Nothing here opens a path: uploads are bytes, read with a limit on bytes and on pixels before any
pixel is decoded.
"""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ldm_jax.core.checks import UserError

MAX_UPLOAD = 20 * 2**20  # bytes
MAX_PIXELS = 4096 * 4096
MAX_TEXT = 8 * 2**20  # characters of parameters in a PNG
FORMATS = ("PNG", "JPEG", "WEBP")
KEY = "ldm_jax.studio"  # of the parameters in a PNG
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow raises for a file that is not what it says.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, *_BOMBS)


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
        except _BROKEN as error:
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
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"upload: not a .npy file of numbers ({error}).") from error
    if not isinstance(found, np.ndarray) or found.shape[-len(shape) :] != shape:
        raise UserError(f"upload: legal is a .npy array of shape {list(shape)}.")
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
    if parameters is not None:
        info.add_itxt(KEY, json.dumps(parameters), zip=True)
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
            text = opened.text.get(KEY)  # type: ignore[attr-defined]
        except _BROKEN as error:
            raise UserError(f"upload: a broken PNG ({error}).") from error
    if text is None:
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
    """Returns a mask that the page's easel has painted, uint8 [H, W].

    Raises:
      UserError: no PNG, or another size.
    """
    head = "data:image/png;base64,"
    if not isinstance(text, str) or not text.startswith(head):
        raise UserError("mask: legal is what the page paints, a PNG.")
    try:
        content = base64.b64decode(text.removeprefix(head), validate=True)
    except ValueError as error:
        raise UserError(f"mask: not in base64 ({error}).") from error
    found = read_upload(content, 1)[..., 0]
    if found.shape != tuple(size):
        raise UserError(f"mask: got {found.shape[0]} x {found.shape[1]} pixels. Legal: {size}.")
    return found


def _opened(content: bytes) -> Image.Image:
    """Returns an image of which nothing but its head is read."""
    if len(content) > MAX_UPLOAD:
        raise UserError(f"upload: got {len(content):,} bytes. Legal: up to {MAX_UPLOAD:,}.")
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    except _BROKEN as error:
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
