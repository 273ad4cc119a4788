"""Resizing of images of real numbers by the filters of OpenCV, which do not antialias."""

from collections.abc import Callable

import numpy as np

Weights = Callable[[int, int], np.ndarray]


def resample(image: np.ndarray, size: tuple[int, int], weights: Weights) -> np.ndarray:
    """Returns the image [H, W, C] at `size`, (height, width).

    Args:
      image: of real numbers.
      size: of the result.
      weights: `linear`, `cubic`, `area` or `antialiased`; of the pixels before and after.
    """
    rows, columns = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    tall = np.tensordot(rows.astype(image.dtype), image, (1, 0))
    return np.tensordot(tall, columns.astype(image.dtype), (1, 1)).swapaxes(1, 2)


def linear(before: int, after: int) -> np.ndarray:
    """Returns weights [after, before] that interpolate between the two nearest pixels."""
    return _taps(before, after, lambda d: np.maximum(1 - d, 0), 1)


def cubic(before: int, after: int) -> np.ndarray:
    """Returns weights [after, before] that interpolate between the four nearest pixels."""
    return _taps(before, after, lambda d: _keys(d, -0.75), 2)


def area(before: int, after: int) -> np.ndarray:
    """Returns weights [after, before]: means of the part of the image that a pixel covers."""
    edges = np.arange(after + 1) * before / after
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(before)
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return np.maximum(overlap, 0) * after / before


def antialiased(before: int, after: int) -> np.ndarray:
    """Returns weights [after, before] of the bicubic filter of MATLAB, wider when it shrinks."""
    scale = max(before / after, 1.0)
    return _taps(before, after, lambda d: _keys(d / scale, -0.5), int(np.ceil(2 * scale)))


FILTERS: tuple[Weights, ...] = (linear, cubic, area)


def _taps(
    before: int, after: int, kernel: Callable[[np.ndarray], np.ndarray], reach: int
) -> np.ndarray:
    """Returns weights [after, before] of a kernel of the distance, edges going on outside."""
    # Differs from the reference in `antialiased`, which mirrors there: a matter of two pixels.
    centre = (np.arange(after)[:, None] + 0.5) * before / after - 0.5
    near = np.floor(centre) + np.arange(1 - reach, reach + 1)
    values = kernel(np.abs(near - centre))
    values /= values.sum(1, keepdims=True)
    weights = np.zeros((after, before))
    np.add.at(
        weights, (np.arange(after)[:, None], np.clip(near, 0, before - 1).astype(int)), values
    )
    return weights


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns Keys' cubic convolution kernel of slope `a` at 1."""
    d = distance
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))
