"""Finds every mistake in a configuration that shows without data, before anything is written."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, did_you_mean
from ldm_jax.core.config import check_fields
from ldm_jax.core.defaults import base_config
from ldm_jax.core.plugins import find_plugin
from ldm_jax.data import SOURCES, TOKENIZERS
from ldm_jax.data.mirrored_captions import check_flip_captions
from ldm_jax.data.pipeline import make_stream
from ldm_jax.interop.inception_weights import load_inception
from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.tasks.adversarial import AdversarialAutoencoderTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cached_conditions import check_cacheable
from ldm_jax.train.checkpoint import has_begun, has_frozen, read_config
from ldm_jax.train.condition_checks import check_inputs
from ldm_jax.train.evaluation import check_evaluation
from ldm_jax.train.exchange import open_model
from ldm_jax.train.frozen import SCALE_IMAGES, abstract_frozen
from ldm_jax.train.load import open_start

_AT_LEAST_ONE = {
    "train": (
        "steps",
        "batch_size",
        "accumulation",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "sample_every",
    ),
    "sample": ("steps", "per_device_batch", "decode_batch"),
}


# What the numbers of `config.train` must satisfy, beyond their types.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda x: 0 < x < math.inf, "a positive number"),
    "b1": (lambda x: 0 <= x < 1, "0 <= b1 < 1"),
    "b2": (lambda x: 0 <= x < 1, "0 <= b2 < 1"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "0 or more"),
    "clip_norm": (lambda x: x > 0, "a positive number, or None"),
    "ema_decay": (lambda x: 0 <= x <= 1, "0 to 1"),
}


def check_config(config: ConfigDict) -> Any:
    """Returns the task of a configuration after checking each of its groups.

    Raises:
      UserError: a missing, unknown or illegal field, naming what is legal.
    """
    known = base_config()
    _check_group("config", config, [*known, "task", "data"])
    _check_group("config.train", config.train, known.train)
    _check_group("config.sample", config.sample, known.sample)
    _check_group("config.evaluation", config.evaluation, known.evaluation)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed}: legal is 0 to 2^32 - 1.")
    _check_data(config.data)
    if config.task.get("name") in ("latent_diffusion", "latent_classifier"):
        _check_first_stage(config.task.get("first_stage", {}))
    task = assemble.build_task(config)
    assemble_data.batch_spec(config, task, config.train.batch_size)
    assemble_data.check_bucket_sizes(config, task)
    assemble.build_optimizers(config, task)
    _check_ranges(config)
    if isinstance(task, LatentDiffusionTask):
        assemble.build_sample_settings(config, task)
    elif config.data.get("latent_cache") and not isinstance(task, LatentTask):
        raise UserError(
            f"config.data.latent_cache={config.data.latent_cache}: {config.task.name} trains on "
            "images. Legal: with task.name=latent_diffusion or latent_classifier."
        )
    _check_channels(config.data.get("channels", 3), task)
    check_evaluation(config, task)
    return task


def _check_channels(channels: int, task: Any) -> None:
    model = task.first_stage.model if isinstance(task, LatentTask) else task.model
    if channels != model.image_channels:
        raise UserError(
            f"config.data.channels={channels}, but the first stage has "
            f"image_channels={model.image_channels}. Legal: {model.image_channels}."
        )


def _check_ranges(config: ConfigDict) -> None:
    for field, (legal, words) in _RANGES.items():
        value = config.train[field]
        if value is not None and not legal(value):
            raise UserError(f"config.train.{field}={value}: legal is {words}.")
    every, keep = config.train.checkpoint_every, config.train.keep_every
    if keep is not None and (keep < 1 or keep % every):
        raise UserError(
            f"config.train.keep_every={keep}: legal is a multiple of checkpoint_every={every}, "
            "or None."
        )


def check_sampling(config: ConfigDict, image_shape: tuple[int, int] | None) -> None:
    """Checks what sampling reads of a trained run's configuration, and an image size if given.

    The other groups are left alone: their fields may be those of an older version.

    Raises:
      UserError: an illegal value, naming what is legal.
    """
    _check_group("config.sample", config.sample, base_config().sample)
    task = assemble.build_task(config)
    assemble.check_image_size(task, *(image_shape or ()))
    if isinstance(task, LatentDiffusionTask):
        assemble.build_sample_settings(config, task)


def check_run(config: ConfigDict, workdir: str | Path) -> None:
    """Checks a configuration, and what a run of it needs to find in the file system.

    Raises:
      UserError: also where the workdir or the first stage's is not what it should be.
    """
    check_folder("--workdir", workdir)
    task = check_config(config)
    check_inputs(config, task)
    if (Path(workdir) / "config.json").is_file():
        read_config(workdir)
    _check_judges(config, task, workdir)
    if not isinstance(task, LatentTask):
        _check_start(config, task, workdir)
        return
    if has_frozen(workdir):
        return  # a run keeps its own copy of the first stage
    _check_conditioner_weights(config, task)
    _check_first_stage_weights(config, task)


def check_encode(
    config: ConfigDict,
    out: str | Path,
    per_device_batch: int,
    examples_per_shard: int,
    conditioning: str | None = None,
) -> LatentDiffusionTask:
    """Returns the task of a configuration whose data are to be encoded to a folder.

    Raises:
      UserError: anything that would stop it, as far as it shows without data.
    """
    check_folder("--out", out)
    sizes = {"--per_device_batch": per_device_batch, "--examples_per_shard": examples_per_shard}
    for flag, value in sizes.items():
        if value < 1:
            raise UserError(f"{flag}={value}: legal is 1 or more.")
    task = check_config(config)
    if not isinstance(task, LatentDiffusionTask):
        raise UserError(
            f"config.task.name={config.task.name}: has no first stage to encode with. Legal: the "
            "config of a latent_diffusion model."
        )
    _check_crop(config.data)
    _check_first_stage_weights(config, task)
    if conditioning is not None:
        check_cacheable(task, conditioning)
        check_inputs(config, task)
        _check_conditioner_weights(config, task)
    return task


def _check_conditioner_weights(config: ConfigDict, task: LatentTask) -> None:
    """Raises UserError unless a frozen conditioner's weights are named, and a trained one's not."""
    source = config.task.get("conditioner_weights")
    if source and not task.has_frozen_conditioner:
        raise UserError(
            f"config.task.conditioner_weights={source}: this conditioner is trained from scratch. "
            "Legal: with config.task.train_conditioner=False."
        )
    if task.has_frozen_conditioner and not (source or config.train.init_from):
        raise UserError(
            "config.task.train_conditioner=False: a frozen conditioner needs its weights. Legal: "
            "--config.task.conditioner_weights=FOLDER, of transformers or a model that has them, "
            "or --config.train.init_from=MODEL, such as a diffusers folder of Stable Diffusion."
        )
    if source and not config.train.init_from and not Path(source).expanduser().is_dir():
        raise UserError(
            f"config.task.conditioner_weights={source}: no such folder. Legal: a folder of "
            "transformers (config.json, model.safetensors), or a model with this conditioner."
        )


def _check_first_stage_weights(config: ConfigDict, task: LatentTask) -> None:
    """Raises UserError unless the first stage that `config` names is there."""
    if config.train.init_from:
        open_start(config, task).close()
        return  # it brings its own
    if not jax.tree.leaves(abstract_frozen(task, config.data.image_size).params):
        return  # pixel space
    source = config.task.first_stage.get("workdir")
    if not source:
        raise UserError(
            "config.task.first_stage.workdir: not given; expected the --workdir of a trained "
            "autoencoder, or an imported one, as --config.task.first_stage.workdir=DIR."
        )
    try:
        open_model(source, for_sampling=False).close()
    except UserError as error:
        raise UserError(f"config.task.first_stage.workdir={error}") from error


def _check_judges(config: ConfigDict, task: Any, workdir: str | Path) -> None:
    """Raises UserError unless the weights of the losses and metrics of a first stage are there."""
    metrics = config.evaluation.metrics if config.evaluation.every else ()
    if isinstance(task, AdversarialAutoencoderTask) and task.perceptual_weight:
        if not has_frozen(workdir):  # a run keeps its own
            load_lpips(config.train.lpips_weights)
    elif "lpips" in metrics:
        load_lpips(config.train.lpips_weights)
    if "rfid" in metrics:
        load_inception(config.train.inception_weights)


def _check_start(config: ConfigDict, task: Any, workdir: str | Path) -> None:
    """Raises UserError unless a new first stage can begin with `config.train.init_from`."""
    if not config.train.init_from or has_begun(workdir):
        return
    if config.task.get("code_init") == "data":
        raise UserError(
            "config.task.code_init='data' would replace the codebook of config.train.init_from. "
            "Legal: uniform, which leaves it as it is."
        )
    open_start(config, task).close()


def check_folder(what: str, path: str | Path) -> None:
    """Raises UserError if `path`, or a parent of it, is a file."""
    for folder in (Path(path), *Path(path).parents):
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"{what}={path}: {folder} is a file; expected a folder.")
            return


def _check_group(name: str, group: Mapping[str, Any], legal: Iterable[str]) -> None:
    """Raises UserError unless the fields are exactly the legal ones, and counts are positive."""
    legal = list(legal)
    for key in group:
        if key not in legal:
            raise UserError(
                f"{name}: unknown field {key!r}{did_you_mean(key, legal)} "
                f"Fields: {', '.join(legal)}."
            )
    missing = [key for key in legal if key not in group]
    if missing:
        raise UserError(
            f"{name}: lacks {', '.join(missing)}; start from ldm_jax.core.defaults.base_config()."
        )
    for field in _AT_LEAST_ONE.get(name.removeprefix("config."), ()):
        if group[field] < 1:
            raise UserError(f"{name}.{field}={group[field]}: legal is 1 or more.")


def _check_data(data: ConfigDict) -> None:
    if "image_size" not in data:
        raise UserError("config.data: needs image_size, in pixels, such as 32.")
    if data.get("num_epochs") is not None:
        raise UserError("config.data.num_epochs: a run ends at train.steps. Legal: not given.")
    _check_holdout(data.get("holdout"))
    check_fields("config.data", make_stream, assemble_data.transform_settings(data))
    check_flip_captions(data.get("flip_captions") or "refuse")
    cache = data.get("latent_cache")
    if not isinstance(cache, str | None):
        raise UserError(f"config.data.latent_cache={cache!r}: expected a folder of encode.")
    if cache:
        _check_crop(data)
    _check_plug_in("config.data.source", SOURCES, data.get("source", {}))
    if data.get("evaluation_source"):
        _check_plug_in("config.data.evaluation_source", SOURCES, data.evaluation_source)
    tokenizer = data.get("tokenizer")
    if tokenizer:
        _check_plug_in("config.data.tokenizer", TOKENIZERS, tokenizer)
        if "length" not in tokenizer:
            raise UserError("config.data.tokenizer: needs length, in tokens, such as 77.")


def _check_holdout(holdout: Any) -> None:
    whole = isinstance(holdout, int) and not isinstance(holdout, bool)
    if holdout is not None and not (whole and holdout >= 0):
        raise UserError(f"config.data.holdout={holdout!r}: legal is a whole number, 0 or more.")


def _check_crop(data: ConfigDict) -> None:
    if data.get("random_crop"):
        raise UserError(
            "config.data.random_crop=True: a latent cache holds one crop of each image. Legal: "
            "False, or training on images."
        )
    if data.get("buckets") is not None:
        raise UserError(
            "config.data.buckets: a latent cache holds one size of all images. Legal: no buckets, "
            "or training on images."
        )


def _check_plug_in(what: str, registry: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if "name" not in config:
        raise UserError(f"{what}: needs a name. Legal: {', '.join(registry)}.")
    target = find_plugin(f"{what}.name", registry, config["name"])
    check_fields(what, target, {k: v for k, v in config.items() if k != "name"})


def _check_first_stage(settings: Mapping[str, Any]) -> None:
    def first_stage(
        model: ConfigDict,
        workdir: str | None = None,
        scale_factor: str | float = "auto",
        scale_images: int = SCALE_IMAGES,
    ) -> None:
        """Serves as the schema."""

    check_fields("config.task.first_stage", first_stage, settings)
    factor = settings.get("scale_factor", "auto")
    if factor not in ("auto", "std") and not (isinstance(factor, int | float) and factor > 0):
        raise UserError(
            f"config.task.first_stage.scale_factor={factor!r}: legal is 'auto', 'std' or a number "
            "> 0."
        )
    if settings.get("scale_images", 1) < 1:
        raise UserError(
            f"config.task.first_stage.scale_images={settings['scale_images']}: legal is 1 or more."
        )
    if "model" not in settings:
        raise UserError("config.task.first_stage: needs model, as the autoencoder's config has it.")
