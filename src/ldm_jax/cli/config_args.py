"""`--config FILE[:ARG]` and `--config.a.b=value`, with one-line errors."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, did_you_mean


def load_config(spec: str) -> ConfigDict:
    """Returns `get_config(arg)` of a Python file, given as `path` or `path:arg`, locked.

    The file's folder is importable while it runs, so configs may build on their neighbours.

    Raises:
      UserError: no such file, or no `get_config` in it.
    """
    path_text, _, argument = spec.partition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UserError(f"--config={path}: no such file; expected a Python file with get_config().")
    module_spec = importlib.util.spec_from_file_location(f"ldm_jax_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config={path}: not a Python file; expected a name that ends in .py.")
    module = importlib.util.module_from_spec(module_spec)
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config={path}: defines no get_config().")
        config = module.get_config(argument) if argument else module.get_config()
    finally:
        sys.path.remove(folder)
    return config.lock()


def apply_overrides(config: ConfigDict, arguments: list[str]) -> None:
    """Applies `--config.a.b=value` arguments in place.

    Values are Python literals, else strings; their type must fit the field's.

    Raises:
      UserError: unknown argument or field, or a value of the wrong type, naming what is legal.
    """
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, separator, value = argument.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}; see --help.")
        if not separator:
            if not pending:
                raise UserError(f"{name}: needs a value, as {name}=VALUE.")
            value = pending.pop(0)
        _set(config, name.removeprefix("--config."), value)


def _set(config: ConfigDict, dotted: str, text: str) -> None:
    *parents, leaf = dotted.split(".")
    node: Any = config
    for depth, part in enumerate([*parents, leaf]):
        here = ".".join(["config", *parents[:depth]])
        if not isinstance(node, ConfigDict):
            raise UserError(f"--config.{dotted}: {here} is a value, it has no fields.")
        if part not in node:
            raise UserError(
                f"--config.{dotted}: {here} has no field {part!r}{did_you_mean(part, node)} "
                f"Legal: {', '.join(node)}."
            )
        if depth < len(parents):
            node = node[part]
    old = node[leaf]
    if isinstance(old, ConfigDict):
        raise UserError(f"--config.{dotted}: is a group. Legal: {', '.join(old)}.")
    try:
        node[leaf] = _parse(text, old)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--config.{dotted}: got {text!r}, expected {_type_name(old)} such as {old!r}."
        ) from error


def _parse(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, bool):
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise TypeError("expected true or false")
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and not isinstance(value, tuple | list):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _type_name(value: Any) -> str:
    return {"int": "a whole number", "float": "a number", "tuple": "a tuple"}.get(
        type(value).__name__, type(value).__name__
    )
