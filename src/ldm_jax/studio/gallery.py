"""The kept images of a tab: as pictures, as parameters, as files."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.pipeline.painted import write_regions
from ldm_jax.studio.files import as_data_url, link, png
from ldm_jax.studio.session import Kept
from ldm_jax.studio.settings import Settings

_THUMBNAIL = 96  # pixels


def pictures(kept: Sequence[Kept]) -> str:
    """Returns images as HTML that can be clicked."""
    if not kept:
        return "<p class='said'>Finished images are kept here.</p>"
    cells = [
        f"<button data-kept='{k}' title='{_title(x.settings)}'>"
        f"<img alt='image {k + 1}' src='{as_data_url(_thumbnail(x.image))}'></button>"
        for k, x in enumerate(kept)
    ]
    return f"<div class='gallery'>{''.join(cells)}</div>"


def parameters(record: Mapping[str, Any]) -> str:
    """Returns what made an image as JSON for people, pictures left out."""
    return json.dumps(_short(record), indent=1, ensure_ascii=False)


def links(image_u8: np.ndarray, record: Mapping[str, Any], settings: Settings) -> str:
    """Returns links to the files of an image: itself, and what it was made of."""
    found = [link("image.png", png(image_u8, record), "image/png", "PNG with parameters")]
    if settings.image is not None:
        found.append(link("image.png", png(settings.image), "image/png", "start image"))
    if settings.mask is not None:
        found.append(link("mask.png", png(settings.mask), "image/png", "mask"))
    if settings.regions:
        preset = write_regions(settings.regions)
        found.append(link("regions.json", preset, "application/json", "regions"))
    return " ".join(found)


def _thumbnail(image_u8: np.ndarray) -> np.ndarray:
    grey = image_u8.shape[-1] == 1
    small = Image.fromarray(image_u8[..., 0] if grey else image_u8)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(small)


def _title(settings: Settings) -> str:
    told = settings.prompt or f"class {settings.label}"
    return html.escape(f"{told}, seed {settings.seed}", quote=True)


def _short(record: Mapping[str, Any]) -> Any:
    """Returns a record without its pictures, for people."""
    if isinstance(record, Mapping):
        return {
            key: "…" if key in ("png", "mask") and isinstance(value, str) else _short(value)
            for key, value in record.items()
        }
    return [_short(x) for x in record] if isinstance(record, list) else record
