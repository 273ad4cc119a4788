"""What the numbers of a latent cache follow from, and whether they are still those of a run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.config import build, fields_of
from ldm_jax.core.plugins import find_plugin
from ldm_jax.core.types import PyTree
from ldm_jax.data import SOURCES, TOKENIZERS
from ldm_jax.data.latent_cache import LatentCache, read_manifest
from ldm_jax.data.transforms import WHITE
from ldm_jax.train.checkpoint import MAY_CHANGE
from ldm_jax.train.fingerprint import first_stage_hash

_SAMPLES = 16  # examples that stand for all in the fingerprint of a source


def preprocessing_key(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings that an image's moments follow from, defaults included.

    The source's path is not among them: the same data may lie elsewhere.
    """
    data = config.data
    source = data.source.to_dict()
    defaults = {
        name: parameter.default
        for name, parameter in fields_of(_source_type(source)).items()
        if parameter.default is not parameter.empty
    }
    settings = {**defaults, **{name: x for name, x in source.items() if x is not None}}
    key = {
        "image_size": data.image_size,
        "channels": data.get("channels") or 3,
        "background": data.get("background") or WHITE,
        "flips": bool(data.get("flip_probability")),
        "dtype": str(config.task.first_stage.model.get("dtype") or "float32"),
        **{f"source.{name}": x for name, x in settings.items() if name not in MAY_CHANGE},
    }
    return json.loads(json.dumps(key))


def content_key(source: Any) -> dict[str, Any]:
    """Returns what tells a source's content, without reading all of it.

    How many examples it has, its classes, a hash of 16 examples, evenly spaced, and of what the
    source itself knows of all (`fingerprint`, if it has one).
    """
    digest = hashlib.sha256()
    for index in np.linspace(0, len(source) - 1, min(_SAMPLES, len(source))).astype(int):
        example = source[int(index)]
        image = np.ascontiguousarray(example["image"])
        labels = [example.get("class"), example.get("text")]
        digest.update(f"{image.shape} {json.dumps(labels)}\n".encode())
        digest.update(image.tobytes())
    if hasattr(source, "fingerprint"):
        digest.update(source.fingerprint().encode())
    names = source.class_names
    return {
        "num_examples": len(source),
        "class_names": None if names is None else list(names),
        "examples": digest.hexdigest(),
    }


def cached_routes(config: ConfigDict) -> tuple[str, ...]:
    """Returns the routes of a frozen conditioner's answers that training reads from its cache.

    () if there is no cache of them, or the conditioner is trained.
    """
    path = config.data.get("latent_cache")
    if not path or config.task.get("train_conditioner", True):
        return ()
    return tuple(read_manifest(path).conditioning)


def conditioner_key(
    module: Any, params: PyTree, config: ConfigDict, tokenizer: Any = None
) -> dict[str, Any]:
    """Returns what a frozen conditioner's answers follow from, but for the captions."""
    return {
        "conditioner": first_stage_hash(module, params),
        "conditioner_dtype": str(config.task.conditioner.get("dtype") or "float32"),
        **tokenizer_key(config, tokenizer),
    }


def tokenizer_key(config: ConfigDict, tokenizer: Any = None) -> dict[str, Any]:
    """Returns a hash of the tokenizer of `config.data`, which is built if it is not given.

    Raises:
      UserError: it has no fingerprint.
    """
    settings = config.data.get("tokenizer")
    if not settings:
        return {"tokenizer": None}
    if tokenizer is None:
        tokenizer = build("config.data.tokenizer", TOKENIZERS, settings)
    if not hasattr(tokenizer, "fingerprint"):
        raise UserError(
            f"config.data.tokenizer: {type(tokenizer).__name__} has no fingerprint(). Legal: one "
            "that has, or a cache without conditioning."
        )
    return {"tokenizer": tokenizer.fingerprint()}


def check_key(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks the key of a cache; one that holds mirror images also serves without them.

    Args:
      what: the cache, as the user named it.
      found: its key.
      expected: some or all fields of it.

    Raises:
      UserError: naming the first field that differs.
    """
    for field, value in expected.items():
        got = found.get(field)
        if got != value and not (field == "flips" and got is True):
            raise UserError(
                f"{what}: stale, its {field} is {got!r} and here it is {value!r}. Legal: the same "
                "value, or 'ldm-jax encode' into a new folder."
            )


def open_cache(config: ConfigDict) -> LatentCache:
    """Returns `config.data.latent_cache`, once its key fits `config.data`.

    The examples are compared where the source is at hand; images need not be on the machine that
    trains.

    Raises:
      UserError: no cache, not complete, or stale.
    """
    path = config.data.latent_cache
    what = f"config.data.latent_cache={path}"
    key = read_manifest(path).key
    check_key(what, key, preprocessing_key(config))
    if cached_routes(config):
        check_key(what, key, tokenizer_key(config))
    if _is_at_hand(config.data.source):
        source = build("config.data.source", SOURCES, config.data.source)
        check_key(what, key, content_key(source))
    return LatentCache(path)


def _source_type(source: Mapping[str, Any]) -> Any:
    return find_plugin("config.data.source.name", SOURCES, source["name"])


def _is_at_hand(source: Mapping[str, Any]) -> bool:
    if "path" not in fields_of(_source_type(source)):
        return True
    return bool(source.get("path")) and Path(source["path"]).expanduser().exists()


def check_cached_first_stage(
    config: ConfigDict, digest: str, moments_shape: tuple[int, int, int]
) -> None:
    """Raises UserError if the run reads a cache of another first stage, or of another shape.

    Args:
      config: of the run.
      digest: hash of its first stage.
      moments_shape: (h, w, m) of an image's moments.
    """
    path = config.data.get("latent_cache")
    if not path:
        return
    manifest, what = read_manifest(path), f"config.data.latent_cache={path}"
    check_key(what, manifest.key, {"first_stage": digest})
    expected = (1 + bool(manifest.key.get("flips")), *moments_shape)
    check_shape(f"{what}: an example", manifest.shape, expected)


def check_cached_conditioner(config: ConfigDict, module: Any, params: PyTree) -> None:
    """Raises UserError if the run reads the answers of another conditioner than its own.

    Args:
      config: of the run.
      module: its frozen conditioner.
      params: of that.
    """
    if cached_routes(config):
        path = config.data.latent_cache
        what, key = f"config.data.latent_cache={path}", read_manifest(path).key
        check_key(what, key, conditioner_key(module, params, config))
