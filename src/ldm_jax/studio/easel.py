"""What the easel of the page sends and gets: pictures, painted layers, regions."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.painted import PaintedRegion
from ldm_jax.studio.files import as_data_url, read_data_url
from ldm_jax.studio.reading import LAYOUT, MAP, TEXT, Reading
from ldm_jax.studio.settings import Settings

REGION = ("prompt", "weight", "feather")  # of a form, for each region


def selected(paint: str) -> int:
    """Returns the number of the picture that is chosen."""
    found = _paint(paint).get("selected", 0)
    return found if isinstance(found, int) and found >= 0 else 0


def painted_mask(paint: str, size: Any, wanted: bool = True) -> np.ndarray | None:
    """Returns the mask that is painted, uint8 [H, W].

    Args:
      paint: JSON of the easel.
      size: (height, width) in pixels.
      wanted: there must be one; otherwise None stands for none.

    Raises:
      UserError: there must be one, and there is none; or no legal JSON and PNG.
    """
    text = _layers(paint).get("mask")
    mask = None if text is None else read_data_url(text, tuple(size))
    if mask is None or not mask.any():
        if wanted:
            raise UserError("nothing is marked. Legal: brush over what should change.")
        return None
    return mask


def easel_json(images: np.ndarray, layers: Mapping[str, str] | None = None) -> str:
    """Returns the JSON that shows pictures, uint8 [N, H, W, C], and layers over them."""
    shown: dict[str, Any] = {"images": [as_data_url(image) for image in images]}
    shown["size"] = list(images.shape[1:3])
    if layers is not None:
        shown["layers"] = dict(layers)
    return json.dumps(shown)


def layers_of(settings: Settings) -> dict[str, str]:
    """Returns the layers of the easel that settings stand for."""
    layers = {str(k + 1): as_data_url(r.mask) for k, r in enumerate(settings.regions)}
    if settings.mask is not None:
        layers["mask"] = as_data_url(settings.mask)
    return layers


def painted_regions(
    paint: str, form: Mapping[str, Any], reading: Reading, size: tuple[int, int]
) -> tuple[PaintedRegion, ...]:
    """Returns the regions that are painted, those without paint left out.

    Args:
      paint: JSON of the easel.
      form: of the page, with the fields of REGION for every region, such as `region1_prompt`.
      reading: what the model reads.
      size: (height, width) of the image, in pixels.

    Raises:
      UserError: a region has paint but no prompt, or no class number; or no legal JSON and PNGs.
    """
    layers, found = _layers(paint), []
    for number in range(1, reading.most + 1):
        text = layers.get(str(number))
        if text is None:
            continue
        mask = read_data_url(text, size)
        if not mask.any():
            continue
        prompt, weight, feather = (form[f"region{number}_{name}"] for name in REGION)
        prompt = str(prompt if prompt is not None else "").strip()
        if reading.kind != TEXT:
            if not (prompt.isascii() and prompt.isdigit()):
                raise UserError(f"region {number}: got {prompt!r}. Legal: a class number.")
            prompt = int(prompt)
        elif not prompt:
            raise UserError(f"region {number}: is painted, but has no prompt.")
        if reading.kind in (MAP, LAYOUT):
            weight, feather = 1.0, 0.0
        found.append(PaintedRegion(prompt, mask, float(weight), float(feather)))
    return tuple(found)


def _layers(paint: str) -> dict[str, Any]:
    """Returns the layers of the easel, PNGs as data URLs, by name."""
    found = _paint(paint).get("layers")
    return found if isinstance(found, dict) else {}


def _paint(paint: str) -> dict[str, Any]:
    try:
        found = json.loads(paint or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError("the easel sent something that is not legal.") from error
    return found if isinstance(found, dict) else {}
