"""Painted regions, and the files that carry them from one person to another.

A file is JSON: `{"format": "ldm_jax.regions", "version": 1, "size": [H, W], "regions": [{"prompt",
"weight", "feather", "mask"}]}`, where a mask is a grey PNG in base64. `ldm-jax sample --regions`
reads it, and so does the studio.
"""

import base64
import dataclasses
import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from ldm_jax.core.checks import UserError, check_range
from ldm_jax.pipeline.checks import is_number, is_whole
from ldm_jax.pipeline.regions import Region

FORMAT, VERSION = "ldm_jax.regions", 1
MAX_BYTES = 16 * 2**20  # of a file
MAX_REGIONS = 16
MAX_SIDE = 4096  # pixels of a mask
MAX_PROMPT = 2000  # characters
# What Pillow and base64 raise for content that is not what it says.
BROKEN_IMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, MemoryError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_FIELDS = ("prompt", "weight", "feather", "mask")


@dataclasses.dataclass(frozen=True)
class PaintedRegion:
    """A part of the image as somebody painted it.

    Attributes:
      prompt: text, or a class number.
      mask: uint8 [H, W], 255 where it is painted.
      weight: in [0, 1], how much the region counts against the image's own prompt.
      feather: standard deviation of the blur of its border, in pixels.
    """

    prompt: str | int
    mask: np.ndarray
    weight: float = 1.0
    feather: float = 0.0

    def region(self) -> Region:
        """Returns the region that a run of sampling takes."""
        soft = self.mask.astype(np.float32) / 255
        if self.feather:
            soft = gaussian_filter(soft, self.feather, mode="nearest", truncate=3.0)
        return Region(self.prompt, np.clip(self.weight * soft, 0, 1).astype(np.float32))


def check_region(what: str, region: PaintedRegion) -> PaintedRegion:
    """Returns the region.

    Raises:
      UserError: a weight, feather or prompt that is not legal.
    """
    if isinstance(region.prompt, str):
        if not region.prompt.strip() or len(region.prompt) > MAX_PROMPT:
            raise UserError(f"{what}: legal is a prompt of 1 to {MAX_PROMPT:,} characters.")
    elif not is_whole(region.prompt, 0):
        raise UserError(f"{what}.prompt={region.prompt!r}: legal is a text or a class number.")
    for name, most in (("weight", 1.0), ("feather", MAX_SIDE)):
        value = getattr(region, name)
        if not is_number(value):
            raise UserError(f"{what}.{name}={value!r}: legal is a number from 0 to {most:g}.")
        check_range(f"{what}.{name}", value, 0, most)
    return region


def write_regions(regions: Sequence[PaintedRegion]) -> bytes:
    """Returns the file of regions that share one size.

    Raises:
      UserError: there are none.
    """
    if not regions:
        raise UserError("regions: there are none to save. Legal: 1 or more.")
    return json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "size": list(regions[0].mask.shape),
            "regions": [describe_region(region) for region in regions],
        },
        indent=1,
    ).encode()


def describe_region(region: PaintedRegion) -> dict[str, Any]:
    """Returns a region as JSON; `parse_region` reads it."""
    file = io.BytesIO()
    Image.fromarray(region.mask).save(file, "PNG", optimize=True)
    mask = base64.b64encode(file.getvalue()).decode()
    fields = {name: getattr(region, name) for name in _FIELDS if name != "mask"}
    return {**fields, "mask": mask}


def read_regions(content: bytes, size: tuple[int, int]) -> tuple[PaintedRegion, ...]:
    """Returns the regions of a file, their masks resized where they were painted at another size.

    Args:
      content: of the file.
      size: (H, W) of the image, in pixels.

    Raises:
      UserError: no such file, too large a one, or a field that is not legal.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"regions: got {len(content):,} bytes. Legal: up to {MAX_BYTES:,}.")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"regions: not a file of regions ({error}).") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"regions: not a file of regions. Legal: JSON of the format {FORMAT!r}.")
    if found.get("version") != VERSION:
        raise UserError(f"regions: got version {found.get('version')!r}. Legal: {VERSION}.")
    rows = found.get("regions")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_REGIONS:
        raise UserError(f"regions: legal is a list of 1 to {MAX_REGIONS} regions.")
    return tuple(parse_region(f"regions[{k}]", row, size) for k, row in enumerate(rows))


def parse_region(what: str, row: Any, size: tuple[int, int]) -> PaintedRegion:
    """Returns what `describe_region` wrote.

    Raises:
      UserError: something else.
    """
    if not isinstance(row, Mapping) or set(row) != set(_FIELDS):
        raise UserError(f"{what}: legal are exactly the fields {', '.join(_FIELDS)}.")
    mask = _read_mask(f"{what}.mask", row["mask"], size)
    return check_region(what, PaintedRegion(row["prompt"], mask, row["weight"], row["feather"]))


def _read_mask(what: str, text: Any, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(text, str):
        raise UserError(f"{what}: got {type(text).__name__}. Legal: a grey PNG in base64.")
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",))
    except BROKEN_IMAGE as error:
        raise UserError(f"{what}: not a PNG in base64 ({error}).") from error
    if max(opened.size) > MAX_SIDE:
        raise UserError(
            f"{what}: got {opened.height} x {opened.width} pixels. Legal: up to {MAX_SIDE} a side."
        )
    try:
        image = opened.convert("L")
    except BROKEN_IMAGE as error:
        raise UserError(f"{what}: a broken PNG ({error}).") from error
    if (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)
