"""Whether the data have what a task's conditioner reads, before anything is written."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.data import DERIVED
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train.assemble_data import build_derived, build_examples, condition_inputs

_FIRST = 32


def check_tokenizer(task: Task, tokenizer: Any) -> None:
    """Raises UserError unless the conditioner's table holds every token that can come.

    An index beyond the table would not fail on an accelerator; it would read the last row. And one
    that masks the padding must know which token pads.
    """
    if "tokens" not in condition_inputs(task) or tokenizer is None:
        return
    conditioner: Any = cast(LatentDiffusionTask, task).conditioner
    fields = ("vocab_size", "length", *(["pad_id"] if hasattr(conditioner, "pad_id") else []))
    for field in fields:
        got, expected = _field_of(conditioner, field, "tokens"), getattr(tokenizer, field)
        if got != expected:
            raise UserError(
                f"config.task.conditioner.{field}={got}, but the tokenizer of config.data has "
                f"{expected}. Legal: {expected}."
            )


def _field_of(reader: Any, field: str, entry: str) -> int:
    """Returns a field that whatever reads an entry of the batch must have."""
    if not hasattr(reader, field):
        raise UserError(
            f"config.task.conditioner: {type(reader).__name__} reads {entry!r} and has no {field}. "
            f"Legal: a class with the field {field}, which is held against the data."
        )
    return int(getattr(reader, field))


def check_classes(task: Task, source: Any) -> None:
    """Raises UserError unless the conditioner's table holds every class of the source."""
    if "class" not in condition_inputs(task):
        return
    classifies = isinstance(task, LatentClassifierTask)
    where = "model.out_channels" if classifies else "conditioner.num_classes"
    reader = task.model if classifies else cast(Any, task).conditioner
    got = _field_of(reader, "num_classes", "class")
    names = source.class_names
    if names is not None and got < len(names):
        raise UserError(
            f"config.task.{where}={got}, but the data have "
            f"{len(names)} classes. Legal: {len(names)} or more."
        )


def check_inputs(config: ConfigDict, task: Task) -> None:
    """Raises UserError for an input of the conditioner that the data do not have."""
    cached = bool(config.data.get("latent_cache"))
    known = ["class", *(["tokens"] if config.data.get("tokenizer") else [])]
    derived = list(config.data.get("derive") or {})
    if not cached:
        known = list(dict.fromkeys(["image", *known, "segmentation", "mask", *derived]))
    for name in condition_inputs(task):
        if name not in known:
            raise UserError(
                f"config.task.conditioner reads {name!r}, which the "
                f"{'latent cache lacks' if cached else 'data lack'}. Legal: "
                f"{', '.join(known)}; text needs config.data.tokenizer (words or huggingface), "
                f"{', '.join(DERIVED)} config.data.derive."
            )
    if not cached:
        _check_made(config, task)


def _check_made(config: ConfigDict, task: Task) -> None:
    """Raises UserError for an entry that is not as the conditioner reads it, or has no row.

    An index beyond a table, or a map of another size, would show in the first step only.
    """
    shapes = task.input_shapes() if isinstance(task, LatentTask) else {}
    limits = task.input_limits() if isinstance(task, LatentTask) else {}
    data = config.data
    size, channels = data.image_size, data.get("channels", 3)
    found: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((size, size, channels), jnp.uint8),
        "class": ((), jnp.int32),
        "segmentation": ((size, size), jnp.int32),
        "mask": ((size, size), jnp.uint8),
    }
    where = {name: f"config.data: {name!r}" for name in found}
    for name, make in build_derived(config).items():
        where[name] = f"config.data.derive.{name}:"
        if data.get("evaluation_source") and "index" in make.reads:
            raise UserError(
                f"config.data.evaluation_source: config.data.derive.{name} knows the examples of "
                "config.data.source only, by their number. Legal: config.data.holdout."
            )
        sides, dtype = make.shape(size)
        found[name] = tuple(channels if side is None else side for side in sides), dtype
        if name in shapes:
            _check_alike(where[name], *found.pop(name), shapes[name])
        limit = getattr(make, "vocab_size", limits.get(name))
        if name in limits and limit != limits[name]:
            raise UserError(
                f"config.data.derive.{name}.vocab_size={limit}, but config.task.conditioner has "
                f"{limits[name]}. Legal: the same."
            )
    for name in found.keys() & shapes.keys():
        _check_alike(where[name], *found[name], shapes[name])


def _check_alike(
    where: str, shape: tuple[int, ...], dtype: Any, expected: jax.ShapeDtypeStruct
) -> None:
    """Raises UserError unless an entry has the expected shape, and whole numbers where expected."""
    if shape != expected.shape:
        raise UserError(
            f"{where} makes {shape}, but config.task.conditioner reads {expected.shape}. "
            "Legal: as many."
        )
    if jnp.issubdtype(dtype, jnp.floating) != jnp.issubdtype(expected.dtype, jnp.floating):
        raise UserError(
            f"{where} makes {jnp.dtype(dtype)}, but config.task.conditioner reads "
            f"{expected.dtype}. Legal: whole numbers for the one and the other, or floats."
        )


def check_first_examples(config: ConfigDict, task: Task, source: Any, tokenizer: Any) -> None:
    """Raises UserError for a number beyond the conditioner's tables in the first examples.

    Every batch is looked at, but only once a run has begun and its configuration is fixed.
    """
    limits = task.input_limits() if isinstance(task, LatentTask) else {}
    if limits and not config.data.get("latent_cache"):
        keys, count = ("image", *condition_inputs(task)), min(len(source), _FIRST)
        build_examples(config, source, tokenizer, range(count), dict.fromkeys(keys), limits)


def check_largest(task: Task, largest: Mapping[str, int]) -> None:
    """Raises UserError for a largest number of an entry, by its name, beyond its table."""
    limits = task.input_limits() if isinstance(task, LatentTask) else {}
    for name in limits.keys() & largest.keys():
        if largest[name] >= limits[name]:
            raise UserError(
                f"data: the largest {name} is {largest[name]}, but the model has a table of "
                f"{limits[name]}. Legal: 0 to {limits[name] - 1}."
            )
