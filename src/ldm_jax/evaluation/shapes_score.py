"""Whether an image of coloured shapes shows what its caption says, read off the pixels.

For models trained on `ldm_jax.data.shapes`. The reader knows no model and shares no code with
the renderer: it finds connected regions of one hue that stand out from the ground, and matches
each against ideal shapes of every size by correlation, which neither contrast nor a mild blur
changes much.
"""

import functools
import itertools
import re
from collections.abc import Sequence

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import COLUMNS, ROWS, SceneObject

_MATCHED = ("colour", "shape", "row", "column")
UNKNOWN = "unknown"  # the shape of a region that resembles none

_HUES = {"red": 0.0, "yellow": 48.0, "green": 129.0, "cyan": 184.0, "blue": 227.0, "purple": 281.0}
_WORKING_SIZE = 64  # larger images are averaged down to fewer than twice this many pixels
_CONTRAST = 0.4  # of the strongest contrast in the image: where an object ends
_LEAST_CONTRAST = 45.0  # levels; fainter things are noise
_LEAST_AREA = 0.0045  # of the image; a small cross covers 0.027
_LARGE = 0.13  # half extent, in image widths, above which an object is called large
_HALF_EXTENTS = np.geomspace(0.085, 0.185, 10)
_BLURS = (0.008, 0.022, 0.036)  # image widths
_LEAST_CORRELATION = 0.9  # below it, a region is no shape that we know
_OFFSETS = 4  # templates per pixel in each direction

_OBJECT = re.compile(r"an? (\w+) (\w+) (\w+) at the (\w+) (\w+)")


def read_objects(image: np.ndarray) -> list[SceneObject]:
    """Returns the objects of an image, uint8 [s, s, 3], from the top down.

    The shape of a region that resembles no ideal shape is `UNKNOWN`. Below 48 pixels, large
    neighbours of one colour may touch and are then read as one object.
    """
    return [item for item, _ in locate_objects(image)]


def locate_objects(image: np.ndarray) -> list[tuple[SceneObject, np.ndarray]]:
    """Returns the objects of `read_objects`, each with its pixels, bool [s', s'].

    s' is the image's size, or for images of 128 pixels and more an s' below 128.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1]:
        raise UserError(f"read_objects: got shape {image.shape}, expected (s, s, 3).")
    pixels = _average_down(image.astype(np.float32))
    # The ground is uniform and covers more than half of the image, so its colour is the median.
    contrast = pixels - np.median(pixels, axis=(0, 1))[None, None, :]
    strength = np.sqrt(np.sum(contrast**2, axis=2))
    # A high quantile rather than the maximum, which noise alone would raise.
    strongest = np.quantile(strength, 1.0 - _LEAST_AREA)
    mask = strength > max(_CONTRAST * strongest, _LEAST_CONTRAST)
    hues = np.where(mask, 1 + _nearest_hue(contrast), 0)
    least = _LEAST_AREA * mask.size
    regions = [region for region in _regions(hues) if len(region) >= least]
    regions = sorted(regions, key=lambda region: tuple(region.mean(axis=0)))
    found = []
    for region in regions:
        own = np.zeros(mask.shape, bool)
        own[region[:, 0], region[:, 1]] = True
        found.append((_read_region(contrast, region), own))
    return found


def parse_caption(text: str) -> list[SceneObject]:
    """Returns the objects that a caption such as 'a large red circle at the top left' names.

    Raises:
      UserError: for text that is not one or more such phrases joined by ' and '.
    """
    objects = []
    for phrase in text.strip().lower().split(" and "):
        match = _OBJECT.fullmatch(phrase.strip())
        if match is None:
            raise UserError(
                f"caption: got {phrase!r}, expected 'a SIZE COLOUR SHAPE at the ROW COLUMN'."
            )
        size, colour, shape, row, column = match.groups()
        objects.append(SceneObject(colour, shape, size, row, column))
    return objects


def caption_matches(image: np.ndarray, caption: str) -> bool:
    """Returns whether uint8 [s, s, 3] shows exactly the one object of the caption.

    Colour, shape, row and column must be right; the size may differ.
    """
    expected, seen = parse_caption(caption), read_objects(image)
    if len(expected) != 1:
        raise UserError(f"caption: got {len(expected)} objects in {caption!r}. Legal: one.")
    return len(seen) == 1 and _same(expected[0], seen[0], _MATCHED)


def caption_accuracy(images: np.ndarray, captions: Sequence[str]) -> dict[str, float]:
    """Returns the parts of images, uint8 [n, s, s, 3], whose one-object captions hold, in [0, 1].

    `overall` is that of `caption_matches`; `one_object` counts images with exactly one object;
    `colour`, `shape`, `size` and `position` count images with one object that has it right.
    """
    if len(images) != len(captions) or not captions:
        raise UserError(
            f"caption_accuracy: got {len(images)} images and {len(captions)} captions. "
            "Legal: equally many, at least one."
        )
    groups = {
        "overall": _MATCHED,
        "one_object": (),
        "colour": ("colour",),
        "shape": ("shape",),
        "size": ("size",),
        "position": ("row", "column"),
    }
    hits = dict.fromkeys(groups, 0)
    for image, caption in zip(images, captions, strict=True):
        expected, seen = parse_caption(caption), read_objects(image)
        if len(expected) != 1:
            raise UserError(f"caption: got {len(expected)} objects in {caption!r}. Legal: one.")
        for name, attributes in groups.items():
            hits[name] += len(seen) == 1 and _same(expected[0], seen[0], attributes)
    return {name: count / len(captions) for name, count in hits.items()}


def _same(a: SceneObject, b: SceneObject, attributes: Sequence[str]) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in attributes)


def _average_down(pixels: np.ndarray) -> np.ndarray:
    """Returns the image averaged over k x k blocks, such that it is below 2 x _WORKING_SIZE."""
    factor = max(pixels.shape[0] // _WORKING_SIZE, 1)
    size = pixels.shape[0] // factor
    pixels = pixels[: size * factor, : size * factor]
    return pixels.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))


def _nearest_hue(contrast: np.ndarray) -> np.ndarray:
    """Returns indices into _HUES, [...], for colours relative to the ground, [..., 3].

    Relative, because blurring an object into the ground scales this difference and leaves its
    hue alone.
    """
    red, green, blue = np.moveaxis(contrast, -1, 0)
    hue = np.degrees(np.arctan2(np.sqrt(3.0) * (green - blue), 2.0 * red - green - blue))
    gaps = np.abs(hue[..., None] - np.array(list(_HUES.values())).reshape((1,) * hue.ndim + (-1,)))
    return np.argmin(np.minimum(gaps % 360.0, -gaps % 360.0), axis=-1)


def _regions(labels: np.ndarray) -> list[np.ndarray]:
    """Returns the 4-connected regions of equal nonzero label, each as rows and columns [n, 2]."""
    remaining = {(int(y), int(x)): int(labels[y, x]) for y, x in np.argwhere(labels)}
    regions = []
    while remaining:
        start, label = remaining.popitem()
        region, edge = [start], [start]
        while edge:
            y, x = edge.pop()
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if remaining.get(neighbour) == label:
                    del remaining[neighbour]
                    region.append(neighbour)
                    edge.append(neighbour)
        regions.append(np.array(region))
    return regions


def _read_region(contrast: np.ndarray, region: np.ndarray) -> SceneObject:
    """Names one region from its pixels' differences to the ground, [s, s, 3]."""
    size = contrast.shape[0]
    colour = contrast[region[:, 0], region[:, 1]].mean(axis=0)
    # How much of the region's colour there is in each pixel; others' colours are out of it.
    amount = np.clip(contrast @ (colour / np.sum(colour**2)), 0.0, None)
    reach = int(np.ceil(_HALF_EXTENTS[-1] * size)) + 2
    middle = np.round((region.min(axis=0) + region.max(axis=0)) / 2).astype(int)
    window = np.pad(amount, reach)[
        middle[0] : middle[0] + 2 * reach + 1, middle[1] : middle[1] + 2 * reach + 1
    ]
    own = np.zeros_like(window)
    near = region - middle[None, :] + reach
    near = near[np.all((near >= 0) & (near <= 2 * reach), axis=1)]
    own[near[:, 0], near[:, 1]] = 1.0
    window = window * _grow(own)
    weight = window / window.sum()
    axis = np.arange(-reach, reach + 1)
    offset = np.array([weight.sum(axis=1) @ axis, weight.sum(axis=0) @ axis])
    shape, half_extent = _match(window, offset, size)
    row, column = np.clip((middle + offset + 0.5) * 3 / size, 0, 2).astype(int)
    return SceneObject(
        colour=list(_HUES)[int(_nearest_hue(colour))],
        shape=shape,
        size="large" if half_extent > _LARGE else "small",
        row=ROWS[row],
        column=COLUMNS[column],
    )


def _grow(mask: np.ndarray) -> np.ndarray:
    """Returns the mask with a margin of two pixels, where the object fades into the ground."""
    for _ in range(2):
        padded = np.pad(mask, 1)
        rows = np.maximum(np.maximum(padded[:-2], padded[2:]), padded[1:-1])
        mask = np.maximum(np.maximum(rows[:, :-2], rows[:, 2:]), rows[:, 1:-1])
    return mask


def _match(window: np.ndarray, offset: np.ndarray, size: int) -> tuple[str, float]:
    """Returns shape and half extent of the template that correlates best with a window.

    Args:
      window: [w, w], w odd.
      offset: the centroid, rows and columns from the middle of the window, in pixels.
      size: of the image, for the scale of the templates.
    """
    whole, part = np.divmod(np.round(offset * _OFFSETS).astype(int), _OFFSETS)
    centred = np.roll(window, -whole, axis=(0, 1))
    templates, shapes, half_extents = _templates(size, window.shape[0], *map(int, part))
    correlation = templates @ centred.ravel() / np.linalg.norm(centred)
    best = int(np.argmax(correlation))
    known = correlation[best] >= _LEAST_CORRELATION
    return shapes[best] if known else UNKNOWN, half_extents[best]


@functools.cache
def _templates(
    size: int, width: int, row: int, column: int
) -> tuple[np.ndarray, list[str], list[float]]:
    """Returns ideal masks of norm 1, [k, width^2], with their shapes and half extents.

    Their centroids lie `row / _OFFSETS` and `column / _OFFSETS` pixels below and right of the
    middle. Each mask is sampled on 5 x 5 points per pixel and blurred.
    """
    fine = 5
    axis = (np.arange(width * fine) + 0.5) / fine - width / 2
    masks, shapes, half_extents = [], [], []
    kernels = [_blur_matrix(width, blur * size) for blur in _BLURS]
    for half_extent, (shape, (inside, centroid)) in itertools.product(
        _HALF_EXTENTS.tolist(), _IDEALS.items()
    ):
        x = (axis - column / _OFFSETS) / (half_extent * size)
        y = (axis - row / _OFFSETS) / (half_extent * size) + centroid
        mask = inside(x[None, :], y[:, None]).astype(np.float64)
        mask = mask.reshape(width, fine, width, fine).mean(axis=(1, 3))
        for kernel in kernels:
            soft = kernel @ mask @ kernel.T
            masks.append((soft / np.linalg.norm(soft)).ravel())
            shapes.append(shape)
            half_extents.append(half_extent)
    return np.stack(masks), shapes, half_extents


def _blur_matrix(width: int, deviation: float) -> np.ndarray:
    """Returns the banded matrix, [width, width], of a Gaussian blur of a column."""
    steps = np.subtract.outer(np.arange(width), np.arange(width))
    kernel = np.exp(-0.5 * (steps / deviation) ** 2)
    return kernel / kernel.sum(axis=1, keepdims=True)


# Ideal shapes of half extent 1 in (x right, y down), and the height of their centroid.
_IDEALS = {
    "circle": (lambda x, y: x**2 + y**2 <= 1.0, 0.0),
    "square": (lambda x, y: np.maximum(abs(x), abs(y)) <= 0.9, 0.0),
    "triangle": (lambda x, y: (y <= 0.75) & (np.sqrt(3.0) * abs(x) <= y + 1.0), 1 / 6),
    "cross": (
        lambda x, y: (np.maximum(abs(x), abs(y)) <= 1.0) & (np.minimum(abs(x), abs(y)) <= 0.33),
        0.0,
    ),
}
