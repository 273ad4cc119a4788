"""Images and masks as a caller gives them, and as a run takes them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError


def as_images(what: str, images: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    """Returns uint8 images [n, H, W, C], from one [H, W, C] or several; grey ones lack the axis C.

    Args:
      what: name of the argument, for messages.
      images: uint8, 0 to 255.
      size: (H, W) that they must have.
      channels: C that they must have.

    Raises:
      UserError: another type, shape or size.
    """
    found = np.asarray(images)
    if channels == 1 and found.shape[-1:] != (1,):
        found = found[..., None]
    if found.ndim == 3:
        found = found[None]
    if found.dtype != np.uint8 or found.shape[1:] != (*size, channels) or not len(found):
        raise UserError(
            f"{what}: got {found.dtype} of shape {np.shape(images)}. Legal: uint8 "
            f"[{size[0]}, {size[1]}, {channels}], or several of them."
        )
    return found


def as_masks(what: str, masks: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 masks [n, H, W] in [0, 1], from one [H, W] or several.

    Args:
      what: name of the argument, for messages.
      masks: bool, whole numbers of 0 and 1, uint8 of 0 to 255, or floats in [0, 1]. uint8 without
        any number above 1 are 0 and 1, as those that data have.
      size: (H, W) that they must have.

    Raises:
      UserError: another shape, or values out of range.
    """
    found = np.asarray(masks)
    if found.dtype.kind not in "buif":
        raise UserError(f"{what}: got {found.dtype}. Legal: bool, uint8, 0.0 to 1.0.")
    scale = 255 if found.dtype == np.uint8 and found.size and found.max() > 1 else 1
    found = found.astype(np.float32) / scale
    if found.ndim == 2:
        found = found[None]
    if found.ndim != 3 or found.shape[1:] != tuple(size) or not len(found):
        raise UserError(f"{what}: got shape {np.shape(masks)}. Legal: [{size[0]}, {size[1]}].")
    if not (found.min() >= 0 and found.max() <= 1):
        raise UserError(f"{what}: got values outside of 0 to 1. Legal: bool, uint8, 0.0 to 1.0.")
    return found


def as_rows(found: np.ndarray, count: int) -> np.ndarray:
    """Returns an array with a row for every image, from one row or as many.

    Raises:
      UserError: another number of rows.
    """
    if len(found) not in (1, count):
        raise UserError(f"image, mask: got {len(found)} for {count} images. Legal: 1 or {count}.")
    return np.broadcast_to(found, (count, *found.shape[1:]))


def known_latents(masks: np.ndarray, factor: int) -> np.ndarray:
    """Returns [n, h, w, 1]: 1 where no pixel of a latent's cell is painted over.

    Args:
      masks: [n, H, W], 1 where something new is painted.
      factor: pixels of a latent's edge.
    """
    n, height, width = masks.shape
    cells = masks.reshape(n, height // factor, factor, width // factor, factor)
    return (1 - cells.max(axis=(2, 4)))[..., None]


def extend_canvas(image: np.ndarray, borders: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a larger uint8 image and the mask of what is new in it, for outpainting.

    The new part continues the image's border until it is painted over.

    Args:
      image: uint8 [H, W, C].
      borders: pixels to add at the top, bottom, left and right.

    Raises:
      UserError: not four borders of 0 or more.
    """
    if len(borders) != 4 or min(borders) < 0:
        raise UserError(f"borders={tuple(borders)}: legal are four numbers of pixels, 0 or more.")
    top, bottom, left, right = borders
    around = ((top, bottom), (left, right))
    whole = np.pad(image, (*around, (0, 0)), mode="edge")
    mask = np.pad(np.zeros(image.shape[:2], np.float32), around, constant_values=1.0)
    return whole, mask


def paste(images: np.ndarray, original: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns `images` where the mask is 1 and `original` where it is 0, in the type of `images`.

    Args:
      images: [n, H, W, C], uint8, or float32 about [-1, 1].
      original: uint8 [n, H, W, C].
      masks: [n, H, W] in [0, 1].
    """
    share = masks[..., None]
    if images.dtype == np.uint8:
        return np.round(share * images + (1 - share) * original).astype(np.uint8)
    return share * images + (1 - share) * (original.astype(np.float32) / 127.5 - 1)
