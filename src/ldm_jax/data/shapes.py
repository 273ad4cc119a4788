"""Procedural captioned scenes: coloured shapes on a dark ground, at any resolution.

A complete text-to-image data set without a download, whose captions can be checked against
pixels (`ldm_jax.evaluation.shapes_score`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, check_in

COLOURS = {
    "red": (226, 58, 58),
    "green": (66, 188, 84),
    "blue": (62, 100, 236),
    "yellow": (243, 208, 66),
    "purple": (172, 82, 214),
    "cyan": (72, 208, 218),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 0.11, "large": 0.154}  # half the extent, in image widths; a cell is 1/3 wide
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
RELATIONS = ("left of", "right of", "above", "below")
CLASS_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)

SHAPES_VOCABULARY = ("a", "at", "the", "and", *SIZES, *COLOURS, *SHAPES, *ROWS, *COLUMNS)
RELATIONS_VOCABULARY = (*SHAPES_VOCABULARY, "of", "above", "below")

BACKGROUND = (34, 36, 44)
_COLOUR_JITTER = 10.0  # levels, either way
_CENTRE_JITTER = {"small": 0.035, "large": 0.012}  # image widths; a large object stays in its cell
# Left, top, right, bottom of each shape around its centre, in units of the half extent.
_EXTENTS = {
    "circle": (-1.0, -1.0, 1.0, 1.0),
    "square": (-0.88, -0.88, 0.88, 0.88),
    "triangle": (-1.0, -0.95, 1.0, 0.78),
    "cross": (-1.0, -1.0, 1.0, 1.0),
}
_CROSS_ARM = 0.34


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object of a scene in the words of its caption."""

    colour: str
    shape: str
    size: str
    row: str
    column: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} at the {self.row} {self.column}"


def caption_of(objects: Sequence[SceneObject]) -> str:
    """Returns 'a large red circle at the top left and a small ...'."""
    return " and ".join(map(str, objects))


def relation_caption(objects: Sequence[SceneObject]) -> str:
    """Returns 'a large red circle at the top left above a small ...', for two objects."""
    first, second = objects
    return f"{first} {relation_of(first, second)} {second}"


def relation_of(first: SceneObject, second: SceneObject) -> str:
    """Returns where the first is, seen from the second: one of `RELATIONS`, the more distant way.

    On diagonals it is above or below.
    """
    down = ROWS.index(first.row) - ROWS.index(second.row)
    right = COLUMNS.index(first.column) - COLUMNS.index(second.column)
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


CAPTIONS = {"places": caption_of, "relation": relation_caption}


def class_of(item: SceneObject) -> int:
    """Returns the index into `CLASS_NAMES`: shape x 6 + colour."""
    return SHAPES.index(item.shape) * len(COLOURS) + list(COLOURS).index(item.colour)


class Shapes:
    """Scenes of one to nine objects in distinct cells of a 3x3 grid; see the module.

    Example `i` depends on `(seed, i)` and the number of objects, and looks the same at every
    `image_size`. Segmentation is 0 on the ground and 1 + index into `SHAPES` on objects; the
    class of an image is that of its first object.

    Captions are 'places' (`caption_of`), or of two objects these and their 'relation'
    (`relation_caption`).
    """

    class_names: tuple[str, ...] | None = CLASS_NAMES

    def __init__(
        self,
        image_size: int = 64,
        num_examples: int = 50_000,
        min_objects: int = 1,
        max_objects: int = 3,
        seed: int = 0,
        captions: str = "places",
    ):
        check_in("shapes.captions", captions, CAPTIONS)
        if captions == "relation" and not min_objects == max_objects == 2:
            raise UserError(
                f"shapes: got captions='relation' for {min_objects} to {max_objects} objects. "
                "Legal: min_objects=2, max_objects=2."
            )
        if not 1 <= min_objects <= max_objects <= 9:
            raise UserError(
                f"shapes: got min_objects={min_objects}, max_objects={max_objects}. "
                "Legal: 1 <= min_objects <= max_objects <= 9."
            )
        if image_size < 8 or num_examples < 1 or seed < 0:
            raise UserError(
                f"shapes: got image_size={image_size}, num_examples={num_examples}, seed={seed}. "
                "Legal: image_size >= 8, num_examples >= 1, seed >= 0."
            )
        self.image_size, self.num_examples = image_size, num_examples
        self.min_objects, self.max_objects, self.seed = min_objects, max_objects, seed
        self.captions = captions

    def __repr__(self) -> str:
        return (
            f"Shapes(image_size={self.image_size}, num_examples={self.num_examples}, "
            f"min_objects={self.min_objects}, max_objects={self.max_objects}, seed={self.seed}, "
            f"captions={self.captions!r})"
        )

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image, text, class, boxes [max_objects, 5] and segmentation of scene `index`."""
        if not 0 <= index < self.num_examples:
            raise IndexError(f"shapes: example {index} of {self.num_examples}")
        objects, jitter = self._draw(index)
        image, boxes, segmentation = render_scene(objects, self.image_size, jitter)
        padded = np.full((self.max_objects, 5), -1.0, np.float32)
        padded[: len(objects)] = boxes
        return {
            "image": image,
            "text": CAPTIONS[self.captions](objects),
            "class": class_of(objects[0]),
            "boxes": padded,
            "segmentation": segmentation,
        }

    def _draw(self, index: int) -> tuple[list[SceneObject], np.ndarray]:
        rng = np.random.Generator(np.random.Philox((self.seed, index)))
        words = rng.random((self.max_objects + 1, 10))
        spread = self.max_objects - self.min_objects + 1
        count = self.min_objects + int(words[-1, -1] * spread)
        cells = np.argsort(words[-1, :9])
        colours, sizes = tuple(COLOURS), tuple(SIZES)
        objects = [
            SceneObject(
                colour=colours[int(u[0] * len(colours))],
                shape=SHAPES[int(u[1] * len(SHAPES))],
                size=sizes[int(u[2] * len(sizes))],
                row=ROWS[cell // 3],
                column=COLUMNS[cell % 3],
            )
            for u, cell in zip(words[:count].tolist(), cells.tolist(), strict=False)
        ]
        return objects, 2.0 * rng.random((count, 5)) - 1.0


def render_scene(
    objects: Sequence[SceneObject], image_size: int = 64, jitter: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the image uint8 [s, s, 3], boxes float32 [n, 5] and segmentation uint8 [s, s].

    Pixels are blended by the area that an object covers, from its signed distance in pixels.

    Args:
      objects: at most one per cell.
      image_size: s.
      jitter: [n, 5] in [-1, 1]: x, y, red, green, blue of every object; None draws every object
        at the middle of its cell in its plain colour.
    """
    if jitter is None:
        jitter = np.zeros((len(objects), 5))
    canvas = np.empty((image_size, image_size, 3), np.float32)
    canvas[:] = BACKGROUND
    segmentation = np.zeros((image_size, image_size), np.uint8)
    boxes = np.empty((len(objects), 5), np.float32)
    for k, (item, offset) in enumerate(zip(objects, jitter.tolist(), strict=True)):
        radius, reach = SIZES[item.size], _CENTRE_JITTER[item.size]
        x = (COLUMNS.index(item.column) + 0.5) / 3 + reach * offset[0]
        y = (ROWS.index(item.row) + 0.5) / 3 + reach * offset[1]
        left, top, right, bottom = (radius * extent for extent in _EXTENTS[item.shape])
        boxes[k] = x + left, y + top, x + right, y + bottom, class_of(item)
        varied = np.asarray(COLOURS[item.colour]) + _COLOUR_JITTER * np.asarray(offset[2:])
        colour = varied.astype(np.float32)
        _paint(canvas, segmentation, item.shape, (x, y, radius), colour)
    return (canvas + 0.5).astype(np.uint8), boxes, segmentation


def _paint(
    canvas: np.ndarray,
    segmentation: np.ndarray,
    shape: str,
    place: tuple[float, float, float],
    colour: np.ndarray,
) -> None:
    """Blends one object into the window of `canvas` that it can touch."""
    size = canvas.shape[0]
    x, y, radius = (size * value for value in place)
    x0, x1 = max(int(x - radius) - 1, 0), min(int(x + radius) + 2, size)
    y0, y1 = max(int(y - radius) - 1, 0), min(int(y + radius) + 2, size)
    columns = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - x)
    rows = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    distance = _signed_distance(shape, columns, rows, radius)
    coverage = np.minimum(np.maximum(0.5 - distance, 0.0), 1.0)
    window = canvas[y0:y1, x0:x1]
    window += coverage[:, :, None] * (colour - window)
    segmentation[y0:y1, x0:x1][coverage > 0.5] = 1 + SHAPES.index(shape)


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Returns pixels to the outline, negative inside, [h, w], from x [1, w] and y [h, 1]."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    x = np.abs(x)
    if shape == "triangle":  # equilateral, apex up: the half planes of its base and its sides
        _, apex, _, base = (extent * radius for extent in _EXTENTS[shape])
        return np.maximum(y - base, 0.5 * (np.sqrt(3.0) * x - (y - apex)))
    y = np.abs(y)
    if shape == "square":
        return np.maximum(x, y) - 0.88 * radius
    arm = _CROSS_ARM * radius
    return np.minimum(np.maximum(x - radius, y - arm), np.maximum(x - arm, y - radius))
