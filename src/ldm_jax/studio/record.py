"""What made an image, as JSON that goes into its PNG, and as a command."""

import base64
import dataclasses
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, shortened
from ldm_jax.pipeline import Pipeline
from ldm_jax.pipeline.checks import is_number, is_whole
from ldm_jax.pipeline.painted import MAX_REGIONS, describe_region, parse_region
from ldm_jax.studio.files import png, read_upload
from ldm_jax.studio.reading import ARRAY, CLASS, IMAGE, LAYOUT, MAP, MASKED, TEXT, Reading
from ldm_jax.studio.settings import STEERED, Settings, first_settings

FORMAT, VERSION = "ldm_jax.studio", 1
_PICTURES = ("image", "mask", "read")
_MOST_EMBEDDED = 3_000_000  # characters of a picture
_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(Settings)
    if field.name not in (*_PICTURES, "regions")
)
_KINDS = {
    "prompt": str,
    "negative": str,
    "sampler": str,
    "label": int,
    "steps": int,
    "seed": int,
    "num_images": int,
    "guidance": float,
    "strength": float,
}
_SIDE = 8192


def make_record(
    pipeline: Pipeline, history: Sequence[tuple[int, Settings]], number: int
) -> dict[str, Any]:
    """Returns what made image `number` of a run, as JSON.

    Args:
      pipeline: the model.
      history: of the run, see `Tree.history`.
      number: of the image.
    """
    (_, first), *later = history
    steered = []
    before = first
    for row, settings in later:
        names = settings.changed(before)
        steered.append({"row": row, **_describe(settings, names)})
        before = settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": str(pipeline.source),
        "checkpoint_hash": pipeline.fingerprint(),
        "step": pipeline.step,
        "image_number": number,
        "settings": _describe(first, (*_PLAIN, *_PICTURES, "regions")),
        "steered": steered,
    }


def read_record(record: Mapping[str, Any], pipeline: Pipeline) -> list[tuple[int, Settings]]:
    """Returns the history of a run from what `make_record` wrote, be it of another model.

    Raises:
      UserError: it is not what `make_record` writes.
    """
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise UserError(f"parameters: legal is the format {FORMAT!r}, version {VERSION}.")
    channels = pipeline.task.first_stage.model.image_channels
    settings = _parse(first_settings(pipeline), record.get("settings"), channels)
    history, steered = [(0, settings)], record.get("steered")
    if not isinstance(steered, list):
        raise UserError("parameters: steered is broken.")
    for change in steered:
        if not isinstance(change, dict) or not is_whole(change.get("row"), 0):
            raise UserError("parameters: steered is broken.")
        told = {name: value for name, value in change.items() if name != "row"}
        if not set(told) <= set(STEERED):
            raise UserError(f"parameters: steered has {', '.join(set(told) - set(STEERED))}.")
        settings = _parse(settings, told, channels)
        history.append((change["row"], settings))
    return history


def command(
    pipeline: Pipeline,
    reading: Reading,
    settings: Settings,
    steered: bool,
    more: Sequence[str] = (),
) -> tuple[str, str]:
    """Returns the `ldm-jax sample` command that draws the same, and a sentence on it.

    Files that it names are those that the studio offers: regions.json, image.png and mask.png.

    Args:
      pipeline: the model.
      reading: of it.
      settings: of the run.
      steered: whether these are not all that it was told.
      more: flags that the model was opened with, each with its value behind '='.
    """
    if steered:
        return "", "This run was steered under way, which no single command does."
    if reading.kind in (LAYOUT, MAP, IMAGE, ARRAY):
        return "", f"ldm-jax sample takes {reading.name} of a .npz file: see --conditions."
    flags: dict[str, Any] = {
        "checkpoint": pipeline.source,
        "sampler": settings.sampler,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "size": f"{settings.size[0]}x{settings.size[1]}",
        "num_images": settings.num_images,
        **_told(reading, settings),
    }
    files = {
        "regions": "regions.json" if settings.regions else None,
        "image": None if settings.image is None else "image.png",
        "mask": None if settings.mask is None else "mask.png",
    }
    named = {name: file for name, file in files.items() if file is not None}
    # Joined by '=': a prompt may begin with a dash.
    words = [f"--{name}={value}" for name, value in {**flags, **named}.items()]
    words = ["ldm-jax", "sample", *words, *_undecided(more, settings, pipeline)]
    beside = f", beside {', '.join(named.values())}" if named else ""
    return shlex.join(words), f"The command draws the same{beside}."


def _undecided(more: Sequence[str], settings: Settings, pipeline: Pipeline) -> list[str]:
    """Returns the flags without those on which the settings have the last word."""
    decided = ["steps=", "guidance_scale=", "sampler.name="]
    if settings.sampler != pipeline.config.sample.sampler.name:
        decided.append("sampler.")  # options of the sampler that is not used
    return [x for x in more if not x.startswith(tuple(f"--config.sample.{y}" for y in decided))]


def _told(reading: Reading, settings: Settings) -> dict[str, Any]:
    """Returns the flags that say what is drawn."""
    found: dict[str, Any] = {}
    if reading.kind == TEXT:
        found["prompt"] = settings.prompt
        if settings.negative.strip() and settings.guidance != 1:
            found["negative"] = settings.negative.strip()
    if reading.kind == CLASS:
        found["class"] = settings.label
    if settings.image is not None and reading.kind != MASKED:
        found["strength"] = settings.strength
    return found


def _describe(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(settings, name)
        if name == "regions":
            value = [describe_region(region) for region in value]
        elif name in _PICTURES:
            value = None if value is None else _embedded(value)
        elif name == "size":
            value = list(value)
        found[name] = value
    return found


def _embedded(values: np.ndarray) -> dict[str, Any]:
    """Returns an image or array as JSON; of a large one the hash alone."""
    told = {"sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}
    if values.dtype != np.uint8:
        return {**told, "values": values.tolist()} if values.size < 10_000 else told
    text = base64.b64encode(png(values)).decode()
    return {**told, "png": text} if len(text) <= _MOST_EMBEDDED else told


def _parse(settings: Settings, told: Any, channels: int) -> Settings:
    """Returns settings with those changes that `_describe` wrote.

    Raises:
      UserError: it did not write that.
    """
    legal = (*_PLAIN, *_PICTURES, "regions")
    if not isinstance(told, dict) or not set(told) <= set(legal):
        raise UserError("parameters: the settings are broken.")
    found: dict[str, Any] = {}
    size = _size(told.get("size", list(settings.size)))
    for name, value in told.items():
        if name == "size":
            found[name] = size
        elif name == "regions":
            found[name] = _regions(value, size)
        elif name in _PICTURES:
            found[name] = None if value is None else _unembedded(name, value, channels)
        else:
            found[name] = _plain(name, value)
    return dataclasses.replace(settings, **found)


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError("parameters: size is broken.")
    for side in value:
        if not is_whole(side, 1, _SIDE):
            raise UserError(f"parameters: size {side!r}. Legal: 1 to {_SIDE} pixels.")
    return value[0], value[1]


def _regions(value: Any, size: tuple[int, int]) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MAX_REGIONS:
        raise UserError(f"parameters: regions are broken. Legal: up to {MAX_REGIONS}.")
    return tuple(parse_region(f"regions[{k}]", row, size) for k, row in enumerate(value))


def _plain(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    right = {str: isinstance(value, str), int: is_whole(value, 0, 2**32), float: is_number(value)}
    if not right[kind]:
        raise UserError(f"parameters: {name}={shortened(repr(value), 60)} is not legal.")
    return kind(value)


def _unembedded(name: str, value: Any, channels: int) -> np.ndarray | None:
    """Returns a picture of a record; None for one that was too large to keep."""
    if not isinstance(value, dict) or "sha256" not in value:
        raise UserError(f"parameters: {name} is broken.")
    try:
        if "values" in value:
            return np.asarray(value["values"], np.float32)
        if "png" not in value:
            return None
        content = base64.b64decode(value["png"], validate=True)
    except (ValueError, TypeError) as error:
        raise UserError(f"parameters: {name} is broken.") from error
    if name == "mask":
        return read_upload(content, 1)[..., 0]
    return read_upload(content, channels if name == "image" else 3)
