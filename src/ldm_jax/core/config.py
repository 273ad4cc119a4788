"""From ml-collections configurations to objects, strictly.

A configuration of a plug-in is a mapping with a `name` and the keyword arguments of what the
registry holds under that name: the signature is the schema, there is no parallel one.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ldm_jax.core.checks import UserError, did_you_mean, lookup
from ldm_jax.core.precision import as_dtype


def fields_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the configurable parameters of a class or function, by name."""
    parameters = dict(inspect.signature(target).parameters)
    if "parent" in parameters:  # a Flax module: these two fields are Flax's own
        parameters = {k: p for k, p in parameters.items() if k not in ("parent", "name")}
    return parameters


def build(what: str, registry: Mapping[str, Any], config: Mapping[str, Any], **extra: Any) -> Any:
    """Builds `registry[config['name']](**config, **extra)`, checking every key first.

    Args:
      what: the place in the configuration, for messages, such as `config.model`.
      registry: plug-ins by name.
      config: `name` and keyword arguments. Fields that end in `dtype` may be strings.
      **extra: arguments that the caller supplies; those the plug-in does not take are dropped.

    Raises:
      UserError: unknown plug-in, unknown or missing field, naming what is legal.
    """
    if "name" not in config:
        raise UserError(f"{what}: needs a name. Legal: {', '.join(registry)}.")
    target = lookup(f"{what}.name", registry, config["name"])
    return call(what, target, {k: v for k, v in config.items() if k != "name"}, **extra)


def call(what: str, target: Callable[..., Any], kwargs: Mapping[str, Any], **extra: Any) -> Any:
    """Calls `target(**kwargs, **extra)` after checking names; see `build`."""
    fields = fields_of(target)
    label = getattr(target, "__name__", str(target))
    for key in kwargs:
        if key not in fields:
            raise UserError(
                f"{what}: unknown field {key!r} for {label}{did_you_mean(key, fields)} "
                f"Fields: {', '.join(fields)}."
            )
    arguments = {key: _plain(key, value) for key, value in kwargs.items()}
    arguments.update({key: value for key, value in extra.items() if key in fields})
    required = [
        key
        for key, p in fields.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [key for key in required if key not in arguments]
    if missing:
        raise UserError(f"{what}: {label} needs {', '.join(missing)}.")
    return target(**arguments)


def _plain(key: str, value: Any) -> Any:
    if key.endswith("dtype"):
        return as_dtype(value, key)
    if isinstance(value, list):
        return tuple(value)
    return value
