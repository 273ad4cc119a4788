"""Images as files in memory: resized if too large, in a chosen format, or as they were."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.data.side_cars import MAPS

FORMATS = ("auto", "png", "jpeg", "webp")


@dataclasses.dataclass(frozen=True)
class Storage:
    """How images are stored.

    Attributes:
      max_side: the shorter side is reduced to this many pixels; None leaves sizes alone.
      image_format: of images that are encoded anew; `auto` is PNG, and keeps the files of images
        that are not resized; another keeps only those that are in that format already. Images with
        transparency, which JPEG lacks, become PNG.
      quality: of JPEG and WebP, 1 to 100.
    """

    max_side: int | None = None
    image_format: str = "auto"
    quality: int = 95

    def __post_init__(self):
        check_in("--format", self.image_format, FORMATS)
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality}: legal is 1 to 100.")
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"--resize={self.max_side}: legal is 1 or more, in pixels.")

    def files(self, example: dict[str, Any], original: bytes | None) -> dict[str, bytes]:
        """Returns the files of image, segmentation and mask.

        Args:
          example: as a source gives it.
          original: the file that the image came from, if there is one.
        """
        image = example["image"]
        height, width = new_size(image.shape[0], image.shape[1], self.max_side)
        same = (height, width) == image.shape[:2]
        if same and original is not None and self._keeps(original):
            files = {"image": original}
        else:
            files = {"image": self._encode(_resize(image, height, width, smooth=True))}
        for name in MAPS:
            if name in example:
                numbers = _resize(example[name], height, width, smooth=False)
                files[name] = _save(Image.fromarray(numbers), "png")
        return files

    def _keeps(self, original: bytes) -> bool:
        if self.image_format == "auto":
            return True
        with Image.open(io.BytesIO(original)) as opened:
            return (opened.format or "").lower() == self.image_format

    def _encode(self, image: np.ndarray) -> bytes:
        pillow = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        has_alpha = image.shape[2] in (2, 4)
        if self.image_format in ("auto", "png") or (self.image_format == "jpeg" and has_alpha):
            return _save(pillow, "png")
        return _save(pillow, self.image_format, quality=self.quality)


def new_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Returns the size whose shorter side is at most `max_side`, of the same aspect ratio."""
    shorter = min(height, width)
    if max_side is None or shorter <= max_side:
        return height, width
    # Whole numbers: halves go up, on every machine.
    longer = (2 * max(height, width) * max_side + shorter) // (2 * shorter)
    return (max_side, longer) if height == shorter else (longer, max_side)


def _resize(image: np.ndarray, height: int, width: int, *, smooth: bool) -> np.ndarray:
    """Returns [height, width] or [height, width, C]; smooth is bicubic, as in training."""
    if image.shape[:2] == (height, width):
        return image
    grey = image.ndim == 3 and image.shape[2] == 1
    pillow = Image.fromarray(image[:, :, 0] if grey else image)
    filter_ = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    pixels = np.asarray(pillow.resize((width, height), filter_))
    return pixels[:, :, None] if grey else pixels


def _save(image: Image.Image, format_: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **settings)
    return file.getvalue()
