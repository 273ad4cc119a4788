"""From a configuration to the objects of a run; below this file there are only typed arguments."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import optax
from ml_collections import ConfigDict

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.checks import UserError, lookup
from ldm_jax.core.config import build, call, fields_of
from ldm_jax.core.plugins import find_plugin
from ldm_jax.core.precision import as_dtype
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
from ldm_jax.train.optim import make_optimizer, make_schedule
from ldm_jax.train.step import TrainStep, make_train_step


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
