"""What tells one first stage from another: a hash of what it is and of every number in it.

What was measured on a first stage (the scale of its latents, a cache of them) is kept with its
hash, so that it is not used with another one.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import flatten
from ldm_jax.parallel.sharding import on_host
from ldm_jax.tasks.first_stage import Frozen

# What the numbers depend on by rounding alone, or only while training, and Flax's own fields.
_FREE = (
    *("dtype", "param_dtype", "attention_impl", "remat", "dropout", "null_tokens"),
    *("embedding_std", "linear_projections", "parent", "name"),
)


def module_settings(module: Any) -> dict[str, Any]:
    """Returns the fields of a Flax module that its numbers depend on, and its class as 'name'."""
    names = [x.name for x in dataclasses.fields(module) if x.name not in _FREE]
    return {"name": type(module).__name__, **{name: getattr(module, name) for name in names}}


def first_stage_hash(model: Any, params: PyTree) -> str:
    """Returns the sha256 of a first stage, 64 hexadecimal digits.

    Over its settings, but for those at their defaults, so that a new field of a later version
    changes nothing; and over path, type, shape and bytes of every parameter, in the order of the
    paths; so it does not depend on how they are laid out over devices and processes. One parameter
    at a time is whole on the host. With several processes, all must call it.

    Args:
      model: the Flax module.
      params: its parameters, of NumPy or JAX; {} for a model without any.
    """
    defaults = {x.name: x.default for x in dataclasses.fields(model) if x.name != "name"}
    settings = {
        name: value
        for name, value in module_settings(model).items()
        if name not in defaults or value != defaults[name]
    }
    return params_hash(params, json.dumps(settings, sort_keys=True))


def params_hash(params: PyTree, about: str = "") -> str:
    """Returns the sha256 of a tree of parameters, and of a text, 64 hexadecimal digits."""
    digest = hashlib.sha256(about.encode())
    for path, leaf in sorted(flatten(params).items()):
        array = np.ascontiguousarray(on_host(leaf))
        digest.update(f"\n{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def diffusion_hash(params: PyTree, frozen: Frozen) -> str:
    """Returns the sha256 of all parameters that samples follow from, 64 hexadecimal digits.

    Args:
      params: of the model, and of the conditioner where that is trained.
      frozen: first stage, scale of its latents, and frozen conditioner.
    """
    scale = frozen.latent_scale
    return params_hash(
        {
            "model": params,
            "first_stage": frozen.params,
            "scale": {"shift": scale.shift, "scale": scale.scale},
            "conditioner": frozen.conditioner or {},
        }
    )


def short(digest: str) -> str:
    """Returns the first digits of a hash, for messages."""
    return digest[:12]


def check_first_stage(what: str, record: Mapping[str, Any] | None, digest: str) -> None:
    """Checks that latents are scaled by what was measured on their own first stage.

    Args:
      what: the model on disk.
      record: what is kept with the scale: `first_stage`, the hash; None for models from before
        there was one, which get a warning.
      digest: of the first stage that is there.

    Raises:
      UserError: it is another one.
    """
    if not record:
        logging.warning(
            "%s: keeps no hash of the first stage that its latents' scale belongs to, so this is "
            "not checked",
            what,
        )
    elif record.get("first_stage") != digest:
        raise UserError(
            f"{what}: the scale of its latents belongs to the first stage "
            f"{short(str(record.get('first_stage')))}, but the one there is {short(digest)}. "
            "Legal: the first stage that it was trained with, or training again."
        )
