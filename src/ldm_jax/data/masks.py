"""Random masks, for models that fill in what is missing."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax.core.checks import UserError


class RandomMask:
    """Draws what is to be filled in, uint8 [H, W], 1 where the image is missing.

    Wide strokes or boxes, as LaMa trains on (Suvorov et al. 2021, arXiv 2109.07161, appendix B; the
    paper's section 4.5 takes its protocol): polygonal chains of thick lines with round joints, or a
    few rectangles. Lengths are in shorter sides of the image.

    Args:
      box_probability: of boxes instead of strokes.
      max_strokes: chains of lines, at least one.
      max_vertices: lines of a chain.
      max_length: of a line.
      min_width: of a stroke.
      max_width: of a stroke.
      max_boxes: rectangles, at least one.
      min_box: edge of a rectangle.
      max_box: edge of a rectangle.
    """

    reads = ("image",)

    def __init__(
        self,
        box_probability: float = 0.5,
        max_strokes: int = 4,
        max_vertices: int = 6,
        max_length: float = 0.4,
        min_width: float = 0.08,
        max_width: float = 0.2,
        max_boxes: int = 3,
        min_box: float = 0.12,
        max_box: float = 0.5,
    ):
        if not 0 <= box_probability <= 1:
            raise UserError(f"mask box_probability={box_probability}: legal is 0 to 1.")
        for name, value in (
            ("max_strokes", max_strokes),
            ("max_vertices", max_vertices),
            ("max_boxes", max_boxes),
        ):
            if value < 1:
                raise UserError(f"mask {name}={value}: legal is 1 or more.")
        for low, high, what in ((min_width, max_width, "width"), (min_box, max_box, "box")):
            if not 0 < low <= high <= 1:
                raise UserError(
                    f"mask min_{what}={low}, max_{what}={high}: legal is 0 < min <= max <= 1."
                )
        self.box_probability = box_probability
        self.strokes = (max_strokes, max_vertices, max_length, min_width, max_width)
        self.boxes = (max_boxes, min_box, max_box)

    def shape(self, image_size: int) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of the mask."""
        return (image_size, image_size), np.uint8

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns a mask of the size of example['image']."""
        height, width = example["image"].shape[:2]
        canvas = Image.new("1", (width, height))
        draw = self._boxes if rng.random() < self.box_probability else self._strokes
        draw(ImageDraw.Draw(canvas), np.array([width, height]), rng)
        return np.asarray(canvas).astype(np.uint8)

    def _strokes(
        self, draw: ImageDraw.ImageDraw, size: np.ndarray, rng: np.random.Generator
    ) -> None:
        max_strokes, max_vertices, max_length, min_width, max_width = self.strokes
        unit = size.min()
        for _ in range(rng.integers(1, max_strokes + 1)):
            point = rng.random(2) * size
            width = max(1, int(rng.uniform(min_width, max_width) * unit))
            for _ in range(rng.integers(1, max_vertices + 1)):
                angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, max_length) * unit
                end = np.clip(point + length * np.array([np.cos(angle), np.sin(angle)]), 0, size)
                draw.line([*point, *end], fill=1, width=width)
                for x, y in (point, end):
                    r = width / 2
                    draw.ellipse([x - r, y - r, x + r, y + r], fill=1)
                point = end

    def _boxes(self, draw: ImageDraw.ImageDraw, size: np.ndarray, rng: np.random.Generator) -> None:
        max_boxes, min_box, max_box = self.boxes
        for _ in range(rng.integers(1, max_boxes + 1)):
            edges = np.maximum(1, (rng.uniform(min_box, max_box, 2) * size.min()).astype(int))
            left, top = (int(rng.integers(0, n + 1)) for n in size - edges)
            draw.rectangle([left, top, left + edges[0] - 1, top + edges[1] - 1], fill=1)
