"""What a model wants to be told, asked of its conditioner."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.transforms import Crop
from ldm_jax.pipeline import Pipeline
from ldm_jax.pipeline.painted import PaintedRegion
from ldm_jax.train.assemble_data import build_derived

# Of what a model reads, by the first of its conditioner's inputs, how a person tells it.
TEXT, CLASS, LAYOUT, MAP, MASKED, NOTHING = "text", "class", "layout", "map", "masked", "nothing"
IMAGE, ARRAY = "image", "array"
_NAMED = {"tokens": TEXT, "class": CLASS, "masked_image": MASKED}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a person tells a model what to draw.

    Attributes:
      kind: TEXT, CLASS, a painted LAYOUT of boxes or MAP of classes, an IMAGE to read, an image and
        a mask (MASKED), an ARRAY from a file, or NOTHING.
      name: of the conditioner's input.
      classes: number of classes that regions or the image can have; 0 where there are none.
      shape: of an image or array that is read, where it is given.
      most: regions that it takes.
    """

    kind: str
    name: str = ""
    classes: int = 0
    shape: tuple[int, ...] = ()
    most: int = 3

    @property
    def paints_regions(self) -> bool:
        """Whether regions have prompts of their own, as with text and classes."""
        return self.kind in (TEXT, CLASS)


def read_from(pipeline: Pipeline) -> Reading:
    """Returns how a model is told what to draw."""
    task, config = pipeline.task, pipeline.config
    conditioner: Any = task.conditioner
    reads = tuple(conditioner.inputs)
    if not reads:
        return Reading(NOTHING)
    name = reads[0]
    if name in _NAMED:
        return Reading(_NAMED[name], name, classes=getattr(conditioner, "num_classes", 0))
    told = conditioner.input_shapes(task.image_size)[name]
    derived = (config.data.get("derive") or {}).get(name)
    if name == "layout" and derived is not None:
        return Reading(LAYOUT, name, derived.get("vocab_size", 8192) - 1, (), 8)
    if hasattr(conditioner, "num_classes") and np.issubdtype(told.dtype, np.integer):
        return Reading(MAP, name, conditioner.num_classes, told.shape, 8)
    if len(told.shape) == 3 and told.shape[-1] in (1, 3):
        return Reading(IMAGE, name, shape=tuple(told.shape))
    return Reading(ARRAY, name, shape=tuple(told.shape))


def painted_condition(
    reading: Reading, pipeline: Pipeline, regions: Sequence[PaintedRegion], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns the `conditions` of painted boxes or classes.

    Args:
      reading: of a kind LAYOUT or MAP.
      pipeline: the model.
      regions: whose prompts are classes; later ones lie on top. Of a layout the box around each
        counts.
      size: (H, W) of the image.

    Raises:
      UserError: a class that the model does not know, nothing painted, or too much.
    """
    for number, region in enumerate(regions):
        label = region.prompt
        if isinstance(label, str) or not 0 <= label < reading.classes:
            raise UserError(
                f"region {number + 1}: got class {label!r}. Legal: 0 to {reading.classes - 1}."
            )
    if reading.kind == MAP:
        whole = np.zeros(size, np.int32)
        for region in regions:
            whole[region.mask > 127] = region.prompt
        return {reading.name: whole[None]}
    boxes = [_box(region, size) for region in regions if (region.mask > 127).any()]
    if not boxes:
        raise UserError("regions: this model draws what stands in boxes. Legal: paint 1 or more.")
    found = np.asarray(boxes, np.float32)
    example = {
        "boxes": found,
        "boxes_of_image": found,
        "crop": (Crop(0, 0, size[1], size[0]), *size),
    }
    tokens: Any = build_derived(pipeline.config)[reading.name]
    if len(boxes) > tokens.num_objects:
        raise UserError(f"regions: got {len(boxes)}. Legal: up to {tokens.num_objects}.")
    return {reading.name: tokens(example, np.random.default_rng(0))[None]}


def image_condition(reading: Reading, image_u8: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the `conditions` of an image that the model reads, uint8 [H, W, C].

    Raises:
      UserError: it has another size than a low-resolution image must have.
    """
    if reading.name == "image":  # a tower resizes it
        return {"image": image_u8[None]}
    if image_u8.shape != reading.shape:
        height, width, channels = reading.shape
        raise UserError(
            f"{reading.name}: got an image of {image_u8.shape[0]} x {image_u8.shape[1]} pixels. "
            f"Legal: {height} x {width}, {channels} channels."
        )
    return {reading.name: image_u8[None].astype(np.float32) / 127.5 - 1}


def _box(region: PaintedRegion, size: tuple[int, int]) -> tuple[float, ...]:
    """Returns (left, top, right, bottom, class) of what is painted, as shares of the image."""
    rows, columns = np.nonzero(region.mask > 127)
    height, width = size
    return (
        columns.min() / width,
        rows.min() / height,
        (columns.max() + 1) / width,
        (rows.max() + 1) / height,
        float(region.prompt),
    )
