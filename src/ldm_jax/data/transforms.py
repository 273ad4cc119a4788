"""From image files of any kind to uint8 images of one size; the same for maps and boxes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ldm_jax.core.checks import check_in
from ldm_jax.data.derived import Derived
from ldm_jax.data.mirrored_captions import mirror_caption

WHITE = (255, 255, 255)
_LUMA = np.array([299, 587, 114], np.int64)  # ITU-R 601, thousandths


def decode(file: str | BinaryIO) -> np.ndarray:
    """Returns the upright pixels of an image file, uint8 [H, W, C].

    C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). EXIF orientation is applied; palettes and
    key colours become colours and alpha; CMYK and other spaces become RGB; 16-bit greys are
    rounded to 8 bits. Colour profiles are ignored. Of an animation, it is the first frame.

    Raises:
      OSError, SyntaxError, ValueError, ...: whatever Pillow raises for a broken file.
    """
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no fixed range")
        if image.mode.startswith("I"):
            wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
            return ((wide + 128) // 257).astype(np.uint8)[:, :, None]
        pixels = np.asarray(image.convert(_plain_mode(image)))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _plain_mode(image: Image.Image) -> str:
    """Returns L, LA, RGB or RGBA: the least that holds what the image holds."""
    if image.mode in ("PA", "RGBa", "RGBA") or "transparency" in image.info:
        return "RGBA"
    if image.mode in ("1", "L"):
        return "L"
    return "LA" if image.mode in ("La", "LA") else "RGB"


def as_channels(
    image: np.ndarray, channels: int, background: tuple[int, int, int] = WHITE
) -> np.ndarray:
    """Returns uint8 [H, W, channels]: alpha composited on `background`, then RGB or luma.

    Args:
      image: uint8 [H, W] or [H, W, C], C in 1 .. 4 as `decode` makes them.
      channels: 3 (RGB) or 1 (grey).
      background: RGB in [0, 255].
    """
    check_in("channels", channels, (1, 3))
    image = image[:, :, None] if image.ndim == 2 else image
    check_in("image channels", image.shape[2], (1, 2, 3, 4))
    if image.shape[2] in (2, 4):
        colour, alpha = image[:, :, :-1].astype(np.int32), image[:, :, -1:].astype(np.int32)
        ground = np.asarray(background, np.int32)
        image = ((colour * alpha + ground * (255 - alpha) + 127) // 255).astype(np.uint8)
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return ((image @ _LUMA + 500) // 1000).astype(np.uint8)[:, :, None]


@dataclasses.dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in its pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def choose_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    random: bool,
    flip_probability: float,
    shape: tuple[int, int] = (1, 1),
) -> Crop:
    """Returns the largest crop of a shape, in the middle or anywhere, mirrored with a probability.

    Three numbers are always drawn, so that changing one option leaves the others' draws alone.

    Args:
      height: of the image.
      width: of the image.
      rng: of the example.
      random: anywhere instead of in the middle.
      flip_probability: of mirroring.
      shape: (h, w) in the proportion of the crop, a square by default.
    """
    h, w = shape
    if height * w > width * h:
        size = max(1, round(width * h / w)), width
    else:
        size = height, max(1, round(height * w / h))
    u, v, flip = rng.random(3)
    if random:
        left, top = int(u * (width - size[1] + 1)), int(v * (height - size[0] + 1))
    else:
        left, top = (width - size[1]) // 2, (height - size[0]) // 2
    return Crop(left, top, size[1], size[0], flip=bool(flip < flip_probability))


def crop_resize(
    image: np.ndarray, crop: Crop, size: int | tuple[int, int], smooth: bool = True
) -> np.ndarray:
    """Returns the crop at `size`, (height, width) or the side of a square, uint8 [h, w(, C)].

    Pillow's bicubic filter, whose support grows with the reduction, so that nothing aliases;
    cropping before resizing (as the reference does for LSUN, ldm/data/lsun.py:45-58) equals
    resizing until the image covers `size` first, but cannot explode on a 1 x 10,000 image.

    Args:
      image: uint8 [H, W] or [H, W, C], C in 1, 3.
      crop: in its pixels.
      size: of the result.
      smooth: False picks nearest neighbours, for maps of classes and masks.
    """
    height, width = as_shape(size)
    part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if crop.flip:
        part = part[:, ::-1]
    if part.shape[:2] != (height, width):
        grey = part.ndim == 3 and part.shape[2] == 1
        filter_ = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        pillow = Image.fromarray(np.ascontiguousarray(part[:, :, 0] if grey else part))
        part = np.asarray(pillow.resize((width, height), filter_))
        part = part[:, :, None] if grey else part
    return np.ascontiguousarray(part)


def as_shape(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) from these, or from the side of a square."""
    return size if isinstance(size, tuple) else (size, size)


def crop_boxes(boxes: np.ndarray, crop: Crop, height: int, width: int) -> np.ndarray:
    """Returns boxes in the crop's coordinates, float32 [n, 5], clipped to [0, 1].

    Boxes that lie outside the crop, and unused rows, are -1 throughout.
    """
    scale = np.array([width, height, width, height], np.float32)
    corner = np.array([crop.left, crop.top, crop.left, crop.top], np.float32)
    sides = np.array([crop.width, crop.height, crop.width, crop.height], np.float32)
    corners = np.clip((boxes[:, :4] * scale - corner) / sides, 0.0, 1.0)
    if crop.flip:
        corners[:, [0, 2]] = 1.0 - corners[:, [2, 0]]
    seen = (corners[:, 0] < corners[:, 2]) & (corners[:, 1] < corners[:, 3]) & (boxes[:, 4] >= 0)
    placed = np.concatenate([corners, boxes[:, 4:]], axis=1).astype(np.float32)
    return np.where(seen[:, None], placed, np.float32(-1.0))


def transform_example(
    example: dict[str, Any],
    rng: np.random.Generator,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    random_crop: bool = False,
    flip_probability: float = 0.0,
    flip_captions: str = "refuse",
    background: tuple[int, int, int] = WHITE,
    tokenize: Callable[[str], np.ndarray] | None = None,
    derive: Mapping[str, Derived] | None = None,
) -> dict[str, Any]:
    """Returns the example with image, maps and boxes cropped, resized and mirrored alike.

    Maps are `segmentation` and `mask`. Then `tokens` are made, if there is a tokenizer, and what
    `derive` makes of all these, in its order.

    `moments` [k, h, w, m] in place of an image are those of the cropped and resized image and of
    its mirror image; one of them is chosen, by the draw that would have mirrored the image.

    Args:
      example: of a source.
      rng: of this example in this epoch.
      image_size: side of the square, or (height, width).
      channels: 3 or 1.
      random_crop: anywhere instead of in the middle.
      flip_probability: of mirroring.
      flip_captions: of `mirrored_captions.FLIP_CAPTIONS`, for what mirroring does to `text`.
      background: RGB behind transparent pixels.
      tokenize: makes `tokens` of `text`.
      derive: what is made of the cropped example, by the name of its entry.
    """
    has_image = "moments" not in example
    height, width = example["image"].shape[:2] if has_image else (1, 1)
    crop = choose_crop(height, width, rng, random_crop, flip_probability, as_shape(image_size))
    changed = dict(example)
    if crop.flip and "text" in example:
        flip, changed["text"] = mirror_caption(example["text"], flip_captions)
        crop = dataclasses.replace(crop, flip=flip)
    if tokenize is not None:
        changed["tokens"] = tokenize(changed["text"])
    if not has_image:
        return {**changed, "moments": example["moments"][int(crop.flip)]}
    image = as_channels(example["image"], channels, background)
    changed["image"] = crop_resize(image, crop, image_size)
    for name in ("segmentation", "mask"):
        if name in example:
            changed[name] = crop_resize(example[name], crop, image_size, smooth=False)
    if "boxes" in example:
        changed["boxes"] = crop_boxes(example["boxes"], crop, height, width)
    seen = {**changed, "crop": (crop, height, width)}
    if "boxes" in example:
        uncut = Crop(0, 0, width, height, crop.flip)
        seen["boxes_of_image"] = crop_boxes(example["boxes"], uncut, height, width)
    return changed | {name: make(seen, rng) for name, make in (derive or {}).items()}
