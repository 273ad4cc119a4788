"""From the arguments of a call to a request and a plan."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_in, check_range, check_shape
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.pipeline.arguments import Arguments
from ldm_jax.pipeline.canvas import as_images, as_masks, as_rows
from ldm_jax.pipeline.checks import PER_IMAGE
from ldm_jax.pipeline.conditions import ConditionReader
from ldm_jax.pipeline.regions import region_weights
from ldm_jax.pipeline.request import Inputs, Plan, Request, numbers
from ldm_jax.samplers.editing import from_strength, repaint
from ldm_jax.tasks.guided import Options
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble

_STRENGTH = 0.75  # the reference's


def make_plan(config: ConfigDict, task: LatentDiffusionTask, arguments: Arguments) -> Plan:
    """Returns levels, table and size of a run.

    Raises:
      UserError: an illegal sampler, number of steps, spacing, size or strength.
    """
    sample = config.sample
    sampler = arguments.get("sampler") or sample.sampler
    if isinstance(sampler, str):
        same = sampler == sample.sampler.name
        sampler = sample.sampler if same else {"name": sampler}
    levels = make_levels(
        task.schedule,
        _given(arguments, "steps", sample.steps),
        _given(arguments, "spacing", sample.spacing),
    )
    steps = len(levels)
    mask, strength = arguments.get("mask"), arguments.get("strength")
    if arguments.get("image") is not None:
        default = _STRENGTH if mask is None else 1.0
        levels = from_strength(levels, default if strength is None else strength)
    whole = len(levels) == steps
    rows = assemble.build_rows(sampler, levels, task)
    resample, jump = _given(arguments, "resample", 1), _given(arguments, "jump", 1)
    return Plan(
        levels,
        repaint(levels, rows, resample, jump),
        _image_shape(task, arguments),
        whole=whole,
    )


def make_options(task: LatentDiffusionTask, arguments: Arguments) -> Options:
    """Returns what the compiled programs are made for.

    Raises:
      UserError: windows that the model cannot take, or codes of a model without a codebook.
    """
    quantize = arguments.get("quantize", False)
    if quantize and not hasattr(task.first_stage.model, "quantize"):
        raise UserError("quantize: this model's first stage has no codebook. Legal: False.")
    window, guide = arguments.get("window"), arguments.get("guide")
    tile = arguments.get("tile")
    task.first_stage.check_tile(tile)
    if window is None:
        return Options(quantize=quantize, guide=guide, tile=tile)
    assemble.check_image_size(task, *window)
    factor = task.first_stage.model.downsampling_factor
    overlap = arguments.get("overlap")
    # Whole latent pixels; a quarter of the smaller edge unless told.
    smallest = min(window) // factor
    shared = smallest // 4 if overlap is None else overlap // factor
    if overlap is not None and (overlap % factor or not 0 <= shared < smallest):
        raise UserError(
            f"overlap={overlap}: legal are multiples of {factor} pixels, from 0 to "
            f"{(smallest - 1) * factor}."
        )
    return Options(
        window=(window[0] // factor, window[1] // factor),
        overlap=(shared, shared),
        quantize=quantize,
        guide=guide,
        tile=tile,
    )


def make_request(
    config: ConfigDict,
    task: LatentDiffusionTask,
    reader: ConditionReader,
    prompts: Any,
    arguments: Arguments,
    plan: Plan,
    *,
    steering: bool = False,
) -> Request:
    """Returns what is asked for, a row per image.

    Raises:
      UserError: a condition of the wrong kind, or a value, shape or number that is not legal.
    """
    inputs, count = reader.read(
        prompts,
        arguments.get("classes"),
        arguments.get("conditions"),
        image_count(arguments),
        plan.image_shape,
    )
    check_in("output", _given(arguments, "output", "uint8"), ("uint8", "float32"))
    size = plan.image_shape
    latent = task.first_stage.latent_shape(*size)
    latents = arguments.get("latents")
    if latents is not None:
        check_shape("latents", np.shape(latents), (count, *latent))
        latents = np.asarray(latents, np.float32)
        if not np.all(np.isfinite(latents)):
            raise UserError("latents: hold a value that is not a finite number.")
    regions = arguments.get("regions") or ()
    image, mask = arguments.get("image"), arguments.get("mask")
    channels = task.first_stage.model.image_channels
    first = _given(arguments, "first_index", 0)
    if first + count > 2**31:
        raise UserError(f"first_index={first} and {count} images: legal is up to 2^31 in all.")
    return Request(
        inputs=inputs,
        seeds=_seeds("seed", _given(arguments, "seed", 0), count),
        indices=np.arange(first, first + count, dtype=np.int32),
        regions=tuple(reader.per_image("regions", r.prompt, count) for r in regions),
        weights=region_weights(regions, count, size, latent[:2]) if regions else None,
        variation=_variation(arguments, count),
        latents=latents,
        toward=_toward(reader, arguments, count),
        image=None if image is None else as_rows(as_images("image", image, size, channels), count),
        mask=None if mask is None else as_rows(as_masks("mask", mask, size), count),
        guide=_guide_inputs(arguments, count),
        **_guidance(config, reader, inputs, arguments, count, bool(regions), steering),
    )


def _guidance(
    config: ConfigDict,
    reader: ConditionReader,
    inputs: Inputs,
    arguments: Arguments,
    count: int,
    regional: bool,
    steering: bool,
) -> dict[str, Any]:
    """Returns the fields of a request that say how strongly it is steered.

    A run that is under way with guidance (`steering`) keeps it at scale 1.
    """
    threshold = arguments.get("threshold")
    found: dict[str, Any] = {}
    if threshold is not None:
        percentile, limit = threshold
        check_range("threshold percentile", percentile, 0, 100)
        if not 0 < limit < np.inf:
            raise UserError(f"threshold limit: got {limit}. Legal: a positive number.")
        found["threshold"] = np.full((count, 2), (percentile, limit), np.float32)
    wanted = _given(arguments, "guidance_scale", config.sample.guidance_scale)
    scale = numbers("guidance_scale", wanted, count, -np.inf, np.inf)
    negative = arguments.get("negative")
    if not inputs or (np.all(scale == 1) and not regional and not steering):
        for name in ("negative", "guidance_interval", "guidance_rescale"):
            if arguments.get(name) is not None:
                raise UserError(
                    f"{name}: has no effect without guidance. Legal: a guidance_scale other than 1."
                )
        return found
    if negative is not None:
        found["negative"] = reader.per_image("negative", negative, count)
    interval, rescale = arguments.get("guidance_interval"), arguments.get("guidance_rescale")
    if interval is not None:
        if not interval[0] <= interval[1]:
            raise UserError(
                f"guidance_interval={tuple(interval)}: legal are two timesteps, the smaller first."
            )
        found["interval"] = np.full((count, 2), interval, np.float32)
    if rescale is not None:
        found["rescale"] = numbers("guidance_rescale", rescale, count, 0, 1)
    return {**found, "scale": scale}


def _guide_inputs(arguments: Arguments, count: int) -> Any:
    given = arguments.get("guide_inputs")
    inputs = jax.tree.map(np.asarray, given, is_leaf=lambda x: isinstance(x, list))
    for value in jax.tree.leaves(inputs):
        if value.shape[:1] != (count,):
            raise UserError(
                f"guide_inputs: got shape {value.shape} for {count} images. Legal: a row for each."
            )
    return inputs


def _variation(arguments: Arguments, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    seed = arguments.get("variation_seed")
    if seed is None:
        return None
    weight = numbers("variation_weight", arguments.get("variation_weight", 0.1), count, 0, 1)
    return _seeds("variation_seed", seed, count), weight


def _toward(
    reader: ConditionReader, arguments: Arguments, count: int
) -> tuple[Inputs, np.ndarray] | None:
    toward = arguments.get("toward")
    if toward is None:
        return None
    weight = numbers("toward_weight", arguments.get("toward_weight", 0.5), count, 0, 1)
    return reader.per_image("toward", toward, count), weight


def image_count(arguments: Arguments) -> int | None:
    """Returns the number of images that is asked for, or that per-image arguments imply."""
    if arguments.get("num_images") is not None:
        return arguments["num_images"]
    values: list[Any] = [arguments.get(name) for name in PER_IMAGE]
    counts = {len(value) for value in values if value is not None and np.ndim(value) > 0}
    pictures: list[Any] = [(arguments.get("image"), 4), (arguments.get("mask"), 3)]
    counts |= {len(x) for x, several in pictures if x is not None and np.ndim(x) == several}
    several = counts - {1}  # one value serves all images
    return max(several) if several else None


def _image_shape(task: LatentDiffusionTask, arguments: Arguments) -> tuple[int, int]:
    shape, image = arguments.get("image_shape"), arguments.get("image")
    if shape is None and image is not None:
        found = np.shape(image)
        channels = task.first_stage.model.image_channels
        shape = found[-3:-1] if len(found) > 2 and found[-1] == channels else found[-2:]
    if shape is None:
        return (task.image_size, task.image_size)
    assemble.check_image_size(task, *shape)
    return (shape[0], shape[1])


def _seeds(what: str, seeds: Any, count: int) -> np.ndarray:
    found = np.asarray(seeds)
    if found.size not in (1, count):
        raise UserError(f"{what}: got shape {found.shape} for {count} images. Legal: 1 or {count}.")
    return np.broadcast_to(found.reshape(-1), (count,)).astype(np.uint32)


def _given(arguments: Mapping[str, Any], name: str, default: Any) -> Any:
    value = arguments.get(name)
    return default if value is None else value
