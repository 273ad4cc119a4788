"""From a configuration to the objects of a run; below this file there are only typed arguments."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.checks import UserError, lookup
from ldm_jax.core.config import build, call, fields_of
from ldm_jax.core.plugins import find_plugin
from ldm_jax.core.precision import as_dtype
from ldm_jax.data import DERIVED, SOURCES, TOKENIZERS
from ldm_jax.data.buckets import check_buckets
from ldm_jax.data.derived import Derived
from ldm_jax.data.pipeline import Stream, load_examples, make_stream
from ldm_jax.data.split import split
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.diffusion.schedule import ZERO_TERMINAL
from ldm_jax.diffusion.schedule import make_schedule as make_noise_schedule
from ldm_jax.diffusion.spacing import Levels, make_levels
from ldm_jax.diffusion.weighting import WEIGHTINGS
from ldm_jax.models import CLASSIFIERS, DISCRIMINATORS, FIRST_STAGES, NETWORKS
from ldm_jax.models.lpips import LPIPS
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import Rows
from ldm_jax.tasks.adversarial import AdversarialAutoencoderTask
from ldm_jax.tasks.autoencoder import AutoencoderTask
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.first_stage import FirstStage
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train.cache_key import cached_routes, open_cache
from ldm_jax.train.optim import make_optimizer, make_schedule
from ldm_jax.train.step import TrainStep, make_train_step

# Fields of config.data that say what is read; the others are make_stream's, and say how.
_WHAT_IS_READ = ("source", "tokenizer", "latent_cache", "holdout", "evaluation_source", "derive")


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How images are drawn: the noise levels, the sampler's table, and the guidance scale."""

    levels: Levels
    rows: Rows
    guidance_scale: float


def build_task(config: ConfigDict) -> Task:
    """Returns the task of `config.task`, checked against `config.data`.

    Raises:
      UserError: unknown names or fields, or an image size that the model cannot take.
    """
    settings = dict(config.task.items())
    make = lookup("config.task.name", TASKS, settings.pop("name", None))
    task: Task = make(settings, config.data.image_size)
    check_image_size(task, config.data.image_size)
    return task


def _trainable_stage(settings: dict[str, Any]) -> Any:
    trainable = FIRST_STAGES.without("identity")
    return build("config.task.model", trainable, settings.pop("model", {}))


def _adversarial_task(settings: dict[str, Any], image_size: int) -> AdversarialAutoencoderTask:
    settings["model"] = _trainable_stage(settings)
    settings["discriminator"] = build(
        "config.task.discriminator",
        DISCRIMINATORS,
        settings.pop("discriminator", {"name": "patch"}),
    )
    if "lpips" in settings:
        settings["lpips"] = call("config.task.lpips", LPIPS, settings["lpips"])
    return call("config.task", AdversarialAutoencoderTask, settings, image_size=image_size)


def _autoencoder_task(settings: dict[str, Any], image_size: int) -> AutoencoderTask:
    settings["model"] = _trainable_stage(settings)
    return call("config.task", AutoencoderTask, settings, image_size=image_size)


def _latent_diffusion_task(settings: dict[str, Any], image_size: int) -> LatentDiffusionTask:
    first_stage = build(
        "config.task.first_stage.model", FIRST_STAGES, settings.pop("first_stage")["model"]
    )
    schedule = call(
        "config.task.schedule", make_noise_schedule, settings.pop("schedule", {"name": "linear"})
    )
    parameterization = settings.get("parameterization", "eps")
    weights = build(
        "config.task.weighting",
        WEIGHTINGS,
        settings.pop("weighting", {"name": "uniform"}),
        schedule=schedule,
        parameterization=parameterization,
    )
    settings.pop("conditioner_weights", None)  # where they lie is no matter of the task
    built = {
        "model": build("config.task.model", NETWORKS, settings.pop("model", {})),
        "conditioner": build(
            "config.task.conditioner", CONDITIONERS, settings.pop("conditioner", {"name": "none"})
        ),
        "first_stage": FirstStage(first_stage),
        "schedule": schedule,
        "weights": weights,
    }
    task = call("config.task", LatentDiffusionTask, settings, image_size=image_size, **built)
    latent_channels = first_stage.latent_channels
    expected = latent_channels * (2 if task.learn_variance else 1)
    if task.model.out_channels != expected:
        also = " and learn_variance doubles them" if task.learn_variance else ""
        raise UserError(
            f"config.task.model.out_channels={task.model.out_channels}, but the first stage's "
            f"latents have {latent_channels} channels{also}. Legal: {expected}."
        )
    if schedule.alpha_bar[-1] <= ZERO_TERMINAL and task.parameterization == "eps":
        raise UserError(
            "config.task.schedule.zero_terminal_snr with parameterization='eps': at the last "
            "timestep eps says nothing about the image. Legal: v, x0."
        )
    return task


def _latent_classifier_task(settings: dict[str, Any], image_size: int) -> LatentClassifierTask:
    stage = settings.pop("first_stage")["model"]
    schedule = settings.pop("schedule", {"name": "linear"})
    built = {
        "model": build("config.task.model", CLASSIFIERS, settings.pop("model", {})),
        "first_stage": FirstStage(build("config.task.first_stage.model", FIRST_STAGES, stage)),
        "schedule": call("config.task.schedule", make_noise_schedule, schedule),
    }
    return call("config.task", LatentClassifierTask, settings, image_size=image_size, **built)


TASKS = {
    "autoencoder": _autoencoder_task,
    "adversarial_autoencoder": _adversarial_task,
    "latent_diffusion": _latent_diffusion_task,
    "latent_classifier": _latent_classifier_task,
}


def size_multiple(task: Task) -> int:
    """Returns the pixels that legal image heights and widths are multiples of."""
    if isinstance(task, LatentTask):
        return task.first_stage.model.downsampling_factor * task.model.size_multiple
    return task.model.downsampling_factor


def check_image_size(task: Task, *sizes: int) -> None:
    """Raises UserError unless every size is a positive multiple of what the model needs."""
    unit = size_multiple(task)
    for size in sizes:
        if size < 1 or size % unit:
            raise UserError(
                f"image size {size}: the model takes multiples of {unit} pixels. "
                f"Legal: {unit}, {2 * unit}, {3 * unit}, …"
            )


def check_bucket_sizes(config: ConfigDict, task: Task) -> None:
    """Raises UserError unless the task trains on images of the sizes of `config.data.buckets`."""
    data = config.data
    if data.get("buckets") is None:
        return
    if isinstance(task, LatentClassifierTask):
        raise UserError(
            "config.data.buckets: a latent_classifier reads latents of one size. Legal: no buckets."
        )
    sides = sorted({side for shape in check_buckets(data.buckets) for side in shape})
    check_image_size(task, *sides)
    for make in build_derived(config).values():
        for side in sides:
            make.shape(side)  # raises where it cannot


def build_tokenizer(config: ConfigDict) -> Any:
    """Returns the tokenizer of `config.data.tokenizer`, or None if the data have none."""
    settings = config.data.get("tokenizer")
    return build("config.data.tokenizer", TOKENIZERS, settings) if settings else None


def keep_text(config: ConfigDict, tokenizer: Any) -> None:
    """Writes into a configuration what the run must remember of its tokenizer.

    The words of a vocabulary file, which may change or go; and for the conditioner the empty
    caption, unless the config names another: a Hugging Face tokenizer's has start, end and padding
    tokens in it, and guidance steers away from what dropped captions were trained on.
    """
    if isinstance(tokenizer, WordTokenizer) and config.data.tokenizer.get("vocabulary") != "shapes":
        with config.unlocked(), config.ignore_type():
            config.data.tokenizer.vocabulary = tokenizer.words
    conditioner = config.task.get("conditioner") or {}
    target = find_plugin(
        "config.task.conditioner.name", CONDITIONERS, conditioner.get("name", "none")
    )
    takes = "null_tokens" in fields_of(target)
    if not takes or tokenizer is None or conditioner.get("null_tokens"):
        return
    if tokenizer.empty.any():  # zeros are the conditioner's own default
        with config.unlocked(), config.ignore_type():
            config.task.conditioner.null_tokens = tuple(map(int, tokenizer.empty))


def build_source(config: ConfigDict) -> tuple[Any, Any]:
    """Returns the training examples, and those to evaluate on, which may be None.

    The former are those of `config.data.source`, or of the cache of its latents, less
    `config.data.holdout` examples that are kept from training; the latter are these, or those of
    `config.data.evaluation_source`.

    Raises:
      UserError: also for a cache that is not complete, or stale.
    """
    data = config.data
    whole = (
        open_cache(config)
        if data.get("latent_cache")
        else build("config.data.source", SOURCES, data.source)
    )
    train, held_out = split(whole, data.holdout) if data.get("holdout") else (whole, None)
    if data.get("evaluation_source"):
        try:
            held_out = build("config.data.evaluation_source", SOURCES, data.evaluation_source)
        except UserError as error:  # sources know themselves as data.source
            message = str(error).replace("data.source", "data.evaluation_source")
            raise UserError(message) from error
    return train, held_out


def transform_settings(data: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.data` that `make_stream` takes."""
    return {k: v for k, v in data.items() if k not in _WHAT_IS_READ}


def build_stream(
    config: ConfigDict,
    source: Any,
    task: Task,
    tokenizer: Any,
    *,
    block: tuple[int, int] = (0, 1),
    squares: bool = False,
) -> Stream:
    """Returns one block of rows of the training batches.

    Args:
      config: of the run.
      source: of the examples.
      task: of the run.
      tokenizer: of the captions, if any.
      block: which, of how many; see `parallel.mesh.batch_block`.
      squares: in place of buckets, as latents are measured on one size.
    """
    settings = transform_settings(config.data)
    if squares:
        settings.pop("buckets", None)
    return call(
        "config.data",
        make_stream,
        settings,
        source=source,
        batch_size=config.train.batch_size,
        seed=config.seed,
        tokenizer=tokenizer,
        keys=(
            "moments" if config.data.get("latent_cache") else "image",
            *(cached_routes(config) or condition_inputs(task)),
        ),
        derive=build_derived(config),
        limits=task.input_limits() if isinstance(task, LatentTask) else None,
        process_index=block[0],
        process_count=block[1],
    )


def build_examples(
    config: ConfigDict,
    source: Any,
    tokenizer: Any,
    indices: Any,
    keys: Any = None,
    limits: Mapping[str, int] | None = None,
) -> dict:
    """Returns fixed, preprocessed examples of the source, with their captions under 'text'."""
    settings = transform_settings(config.data)
    legal = {"image_size", "channels", "background"}
    settings = {key: value for key, value in settings.items() if key in legal}
    return call(
        "config.data",
        load_examples,
        settings,
        source=source,
        indices=indices,
        tokenizer=tokenizer,
        derive=build_derived(config),
        keys=keys,
        limits=limits,
    )


def build_derived(config: ConfigDict) -> dict[str, Derived]:
    """Returns what `config.data.derive` makes of every example, by the name of its entry."""
    settings = config.data.get("derive") or {}
    return {
        name: build(f"config.data.derive.{name}", DERIVED, {"name": name, **plugin})
        for name, plugin in settings.items()
    }


def condition_inputs(task: Task) -> tuple[str, ...]:
    """Returns the batch entries that the task's conditioner reads."""
    return task.inputs if isinstance(task, LatentTask) else ()


def batch_spec(config: ConfigDict, task: Task, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a batch, without touching any data.

    Batches of `config.data.buckets` have their own height and width instead of `image_size`.
    """
    data = config.data
    size, channels = data.image_size, data.get("channels", 3)
    example = {"image": jax.ShapeDtypeStruct((size, size, channels), jnp.uint8)}
    if isinstance(task, LatentTask):
        if data.get("latent_cache"):
            shape = task.first_stage.moments_shape(size, size)
            example = {"moments": jax.ShapeDtypeStruct(shape, jnp.float32)}
        example |= task.input_shapes()
    return {
        name: jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype) for name, x in example.items()
    }


def effective_learning_rate(config: ConfigDict) -> tuple[float, str]:
    """Returns the peak learning rate and the rule that gave it."""
    train = config.train
    if not train.scale_learning_rate:
        return train.learning_rate, "learning_rate as given"
    return train.learning_rate * train.batch_size, "learning_rate × batch_size"


def build_optimizers(
    config: ConfigDict, task: Task
) -> tuple[Mapping[str, optax.GradientTransformation], optax.Schedule]:
    """Returns one AdamW per loss group, and their common learning-rate schedule."""
    train = config.train
    peak, _ = effective_learning_rate(config)
    schedule = make_schedule(
        train.schedule, peak=peak, steps=train.steps, warmup_steps=train.warmup_steps
    )
    optimizer = make_optimizer(
        schedule,
        b1=train.b1,
        b2=train.b2,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
    )
    return {group: optimizer for group in task.groups}, schedule


def not_averaged(config: ConfigDict, task: Task) -> tuple[str, ...]:
    """Returns the modules that samples take as they are, not their moving average."""
    trained = {module for modules in task.groups.values() for module in modules}
    return () if config.train.ema_conditioner else tuple({"conditioner"} & trained)


def build_train_step(
    config: ConfigDict,
    task: Task,
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    detailed: bool = False,
) -> TrainStep:
    """Returns the train step of a run; see `make_train_step`."""
    return make_train_step(
        task,
        optimizers,
        seed=config.seed,
        accumulation=config.train.accumulation,
        max_ema_decay=config.train.ema_decay,
        not_averaged=not_averaged(config, task),
        detailed=detailed,
    )


def set_dtype(config: ConfigDict, dtype: str) -> None:
    """Makes all of a diffusion model's networks compute in `dtype`, in place."""
    as_dtype(dtype, "dtype")
    task = config.task
    parts: list[tuple[str, Any, Mapping[str, Any]]] = [
        ("model", task.get("model"), NETWORKS),
        ("conditioner", task.get("conditioner"), CONDITIONERS),
        ("first_stage.model", task.get("first_stage", {}).get("model"), FIRST_STAGES),
    ]
    for field, settings, registry in parts:
        if not settings:
            continue
        target = find_plugin(f"config.task.{field}.name", registry, settings.name)
        if "dtype" in fields_of(target):
            with settings.unlocked(), settings.ignore_type():
                settings.dtype = dtype


def build_sample_settings(config: ConfigDict, task: LatentDiffusionTask) -> SampleSettings:
    """Returns the noise levels, the sampler's table and the guidance scale of `config.sample`."""
    sample = config.sample
    levels = make_levels(task.schedule, sample.steps, sample.spacing)
    return SampleSettings(
        levels=levels,
        rows=build_rows(sample.sampler, levels, task),
        guidance_scale=_finite("config.sample.guidance_scale", float(sample.guidance_scale)),
    )


def build_rows(sampler: Mapping[str, Any], levels: Levels, task: LatentDiffusionTask) -> Rows:
    """Returns the table of `config.sample.sampler` over noise levels.

    Raises:
      UserError: unknown sampler or field, or a variance that the model does not have.
    """
    rows = build("config.sample.sampler", SAMPLERS, sampler, levels=levels)
    if np.any(rows.noise_upper) and not task.learn_variance:
        raise UserError(
            "config.sample.sampler.variance='learned': this model does not predict its variance. "
            "Legal: posterior, beta."
        )
    return cast(Rows, rows)


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise UserError(f"{what}={value}: legal is a finite number.")
    return value
