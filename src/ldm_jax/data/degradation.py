"""Low-resolution versions of images, for super-resolution models."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ldm_jax.core.checks import UserError, check_in

KINDS = ("bicubic", "bsr_light")
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)


class LowResolution:
    """Shrinks the image, float32 [H / factor, W / factor, C] in [-1, 1].

    Args:
      factor: of the edge; must divide the image's.
      kind: 'bicubic', with antialiasing, as the paper's tables; or 'bsr_light', the degradation of
        its models for the wild (Zhang et al. 2021, arXiv 2103.14006, in the reference's light
        form): blur, two reductions, noise and JPEG in random order.
    """

    reads = ("image",)

    def __init__(self, factor: int = 4, kind: str = "bicubic"):
        if factor < 2:
            raise UserError(f"low_res factor={factor}: legal is 2 or more.")
        self.factor, self.kind = factor, check_in("low_res kind", kind, KINDS)

    def shape(self, image_size: int) -> tuple[tuple[int | None, ...], Any]:
        """Returns shape and type of the small image; the channels are those of the image."""
        if image_size % self.factor:
            raise UserError(f"low_res factor={self.factor} must divide image_size={image_size}.")
        edge = image_size // self.factor
        return (edge, edge, None), np.float32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the small version of example['image'], uint8 [H, W, C]."""
        image = example["image"]
        edge = image.shape[0] // self.factor
        if self.kind == "bicubic":
            size = edge, image.shape[1] // self.factor
            small = _resized(image, size, Image.Resampling.BICUBIC)
        else:
            small = bsr_light(image, edge, self.factor, rng)
        return small.astype(np.float32) / 127.5 - 1


def bsr_light(image: np.ndarray, edge: int, factor: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a degraded uint8 [edge, edge W / H, C] of an image uint8 [H, W, C].

    First, one time in four, half the size. Then in random order: a blur; a reduction by a random
    factor between 1 and 2 `factor`, or (one in five) by a Gaussian and every `factor`-th pixel; a
    reduction to the final size; noise of one or two levels; JPEG of quality 80 to 95, nine times in
    ten. JPEG once more at the end.
    """
    height, width = image.shape[:2]
    small = edge, edge * width // height

    def size(rows: int) -> tuple[int, int]:
        rows = max(rows, 1)
        return rows, max(rows * width // height, 1)

    if rng.random() < 0.25:
        image = _resized(image, size(max(height // 2, edge)), _FILTERS[rng.integers(3)])

    def blur(x: np.ndarray) -> np.ndarray:
        return _blurred(x, rng.uniform(0.025, 0.7))

    def reduce(x: np.ndarray) -> np.ndarray:
        if rng.random() < 0.8:
            rows = int(x.shape[0] / rng.uniform(1, 2 * factor))
            return _resized(x, size(rows), _FILTERS[rng.integers(3)])
        return _blurred(x, rng.uniform(0.1, 0.6) * factor / 2)[::factor, ::factor]

    def finish(x: np.ndarray) -> np.ndarray:
        return _resized(x, small, _FILTERS[rng.integers(3)])

    def noise(x: np.ndarray) -> np.ndarray:
        level = rng.uniform(1, 2)
        grey = rng.random() < 0.4
        shape = (*x.shape[:2], 1) if grey else x.shape
        return _clipped(x + rng.normal(0, level, shape))

    def compress(x: np.ndarray) -> np.ndarray:
        return _jpeg(x, int(rng.integers(80, 96))) if rng.random() < 0.9 else x

    steps: list[Callable[[np.ndarray], np.ndarray]] = [blur, reduce, finish, noise, compress]
    for k in rng.permutation(len(steps)):
        image = steps[k](image)
    return _jpeg(finish(image), int(rng.integers(80, 96)))


def _resized(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    height, width = size
    pillow = _pillow(image).resize((width, height), resample)
    return np.asarray(pillow).reshape(height, width, image.shape[2])


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return _clipped(ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)))


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    _pillow(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return np.asarray(opened).reshape(image.shape)


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _pillow(image: np.ndarray) -> Image.Image:
    plain = image[..., 0] if image.shape[2] == 1 else image
    return Image.fromarray(np.ascontiguousarray(plain))
