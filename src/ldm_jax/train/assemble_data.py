"""From `config.data` to the sources, examples and batches of a run."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax.conditioning import CONDITIONERS
from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build, call, fields_of
from ldm_jax.core.plugins import find_plugin
from ldm_jax.data import DERIVED, SOURCES, TOKENIZERS
from ldm_jax.data.buckets import check_buckets
from ldm_jax.data.derived import Derived
from ldm_jax.data.pipeline import Stream, load_examples, make_stream
from ldm_jax.data.split import split
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train.assemble import check_image_size
from ldm_jax.train.cache_key import cached_routes, open_cache

# Fields of config.data that say what is read; the others are make_stream's, and say how.
_WHAT_IS_READ = ("source", "tokenizer", "latent_cache", "holdout", "evaluation_source", "derive")


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
