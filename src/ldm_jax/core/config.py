"""From ml-collections configurations to objects, strictly.

A configuration of a plug-in is a mapping with a `name` and the keyword arguments of what the
registry holds under that name: the signature is the schema, there is no parallel one. The name may
be an import path, see `ldm_jax.core.plugins`.
"""

import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ldm_jax.core.checks import UserError, did_you_mean
from ldm_jax.core.plugins import find_plugin
from ldm_jax.core.precision import as_dtype

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    Sequence: "a tuple",
    type(None): "none",
}


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
      **extra: arguments that the caller supplies, which `config` may not set; those that the
        plug-in does not take are dropped.

    Raises:
      UserError: unknown plug-in, unknown or missing field, or a value of the wrong type, naming
        what is legal.
    """
    if "name" not in config:
        raise UserError(f"{what}: needs a name. Legal: {', '.join(registry)}.")
    target = find_plugin(f"{what}.name", registry, config["name"])
    return call(what, target, {k: v for k, v in config.items() if k != "name"}, **extra)


def call(what: str, target: Callable[..., Any], kwargs: Mapping[str, Any], **extra: Any) -> Any:
    """Calls `target(**kwargs, **extra)` after checking names and types; see `build`."""
    for key in kwargs:
        if key in extra:
            raise UserError(f"{what}.{key}: cannot be set here; the rest of the config decides it.")
    fields = check_fields(what, target, kwargs, supplied=tuple(extra))
    arguments = {
        key: _plain(key, value)
        for key, value in kwargs.items()
        if value is not None or _fits(None, fields[key].annotation)
    }
    arguments.update({key: value for key, value in extra.items() if key in fields})
    required = [
        key
        for key, p in fields.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [key for key in required if key not in arguments]
    if missing:
        flags = " ".join(f"--{what}.{key}=VALUE" for key in missing)
        raise UserError(f"{what}: {_label(target)} needs {', '.join(missing)}, as {flags}.")
    return target(**arguments)


def check_fields(
    what: str,
    target: Callable[..., Any],
    kwargs: Mapping[str, Any],
    supplied: Sequence[str] = (),
) -> dict[str, inspect.Parameter]:
    """Returns `fields_of(target)` once every key of `kwargs` is one and its value fits.

    Values are held against annotations of plain types: numbers, text, tuples, and unions of these;
    whatever else is annotated is for the target to judge. None always fits: a field that does not
    take it counts as not given. Messages do not offer what is `supplied` by the caller.

    Raises:
      UserError: unknown field, or a value of the wrong type, naming what is legal.
    """
    fields = fields_of(target)
    own = [key for key in fields if key not in supplied]
    for key, value in kwargs.items():
        if key not in fields:
            raise UserError(
                f"{what}: unknown field {key!r} for {_label(target)}{did_you_mean(key, own)} "
                f"Fields: {', '.join(own) or 'none'}."
            )
        annotation = fields[key].annotation
        exempt = value is None or key.endswith("dtype")
        if not exempt and not _fits(value, annotation):
            raise UserError(f"{what}.{key}: got {value!r}, expected {_describe(annotation)}.")
    return fields


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    kind = origin or annotation
    if kind in (tuple, Sequence):
        if not isinstance(value, tuple | list):
            return False
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(item, arguments[0]) for item in value) if arguments else True
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind) if kind in _NAMES else True


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    name = _NAMES.get(origin or annotation, str(annotation))
    if origin in (tuple, Sequence) and arguments:
        count = "" if origin is Sequence or arguments[-1] is Ellipsis else f"{len(arguments)} of "
        each = _describe(arguments[0]).removeprefix("a ")
        return f"{name} ({count}{each}{'' if each.endswith('text') else 's'})"
    return name


def _label(target: Any) -> str:
    return getattr(target, "__name__", str(target))


def _plain(key: str, value: Any) -> Any:
    if key.endswith("dtype"):
        return as_dtype(value, key)
    if isinstance(value, list):
        return tuple(value)
    return value
