"""`--config FILE[:ARG]` and `--config.a.b=value`, with one-line errors.

Two kinds of group are told apart. `train`, `sample` and the top level are closed: their fields are
those of `ldm_jax.core.defaults`. Whatever lies below `task` or `data`, or has a `name`, describes
an object, whose signature is the schema; a field may be set there that the file does not mention,
and `ldm_jax.core.config` refuses the ones that the object does not have.
"""

import ast
import importlib.machinery
import inspect
import sys
import types
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, did_you_mean
from ldm_jax.core.plugins import allow_named, look_beside

_OPEN = ("task", "data")
_DERIVE = "data.derive"  # what a source may have by itself, such as masks
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
}


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Reads the file itself: bytecode passes for it if both are of one second and one length."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_config(spec: str) -> ConfigDict:
    """Returns `get_config(arg)` of a Python file, given as `path` or `path:arg`, locked.

    The file's folder is importable while it runs, so configs may build on their neighbours. Import
    paths in it, of plug-ins from outside the package, are allowed from then on, and may be of
    modules beside it.

    Raises:
      UserError: no such file, no Python in it, or no `get_config` that fits.
    """
    path_text, _, argument = spec.partition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UserError(f"--config={path}: no such file; expected a Python file with get_config().")
    if path.suffix != ".py":
        raise UserError(f"--config={path}: not a Python file; expected a name that ends in .py.")
    loader = _SourceLoader(f"ldm_jax_config_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = loader.path
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)
    try:
        loader.exec_module(module)
        config = _call_get_config(path, module, argument)
    except SyntaxError as error:
        raise UserError(f"--config={path}: line {error.lineno}: {error.msg}.") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() returned {type(config).__name__}, expected ConfigDict."
        )
    allow_named(config.to_dict())
    look_beside(path)
    return config.lock()


def _call_get_config(path: Path, module: Any, argument: str) -> Any:
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f"--config={path}: defines no get_config().")
    if argument and not inspect.signature(get_config).parameters:
        raise UserError(
            f"--config={path}:{argument}: its get_config() takes no argument. Legal: {path}."
        )
    if not argument:
        return get_config()
    try:
        return get_config(argument)
    except UserError:
        raise
    except (KeyError, ValueError) as error:
        raise UserError(
            f"--config={path}:{argument}: get_config({argument!r}) does not know it ({error!r})."
        ) from error


def apply_overrides(config: ConfigDict, arguments: list[str]) -> None:
    """Applies `--config.a.b=value` arguments in place.

    Values are Python literals, else strings; their type must fit the field's. Setting the `name` of
    an object to another one drops its other fields, which belonged to the old object; names are
    set first, wherever they stand. `None` for `data.derive`, or for an entry of it, removes it.

    Raises:
      UserError: unknown argument or field, or a value of the wrong type, naming what is legal.
    """
    pairs = read_overrides(arguments)
    for dotted, value in sorted(pairs, key=lambda pair: not pair[0].endswith(".name")):
        _set(config, dotted, value)


def read_overrides(arguments: list[str]) -> list[tuple[str, str]]:
    """Returns (field, value) of each `--config.FIELD=VALUE`; the value may be a word of its own.

    Raises:
      UserError: something else stands there.
    """
    pairs, pending = [], list(arguments)
    while pending:
        argument = pending.pop(0)
        name, separator, value = argument.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"unknown argument {argument!r}; see --help.")
        if not separator:
            if not pending or pending[0].startswith("--"):
                raise UserError(f"{name}: needs a value, as {name}=VALUE.")
            value = pending.pop(0)
        pairs.append((name.removeprefix("--config."), value))
    return pairs


def _set(config: ConfigDict, dotted: str, text: str) -> None:
    *parents, leaf = dotted.split(".")
    node = _descend(config, dotted, parents)
    is_open = (parents and parents[0] in _OPEN) or "name" in node
    if leaf not in node and not is_open:
        _raise_unknown(dotted, parents, leaf, node)
    old = node.get(leaf)
    removable = dotted == _DERIVE or ".".join(parents) == _DERIVE
    if removable and text.lower() == "none":
        if leaf not in node:
            _raise_unknown(dotted, parents, leaf, node)
        with node.unlocked():
            del node[leaf]
        return
    if isinstance(old, ConfigDict):
        or_none = f", or --config.{dotted}=None to do without" if removable else ""
        raise UserError(
            f"--config.{dotted}: is a group; set its fields, as --config.{dotted}.FIELD=VALUE"
            f"{or_none}. Legal: {', '.join(old) or 'those of its object'}."
        )
    value = _parse(text, old)
    allow_named({leaf: value})
    with node.unlocked(), node.ignore_type():
        if leaf == "name" and value != old:
            for other in [key for key in node if key != leaf]:
                del node[other]
        elif not is_open:
            _check_type(dotted, text, value, old, node.get_type(leaf))
        node[leaf] = value


def _descend(config: ConfigDict, dotted: str, parents: list[str]) -> ConfigDict:
    """Returns the group that holds the last field; below `task` and `data` it may be new."""
    node: Any = config
    for depth, part in enumerate(parents):
        if part not in node:
            # A near miss is a mistake; anything else is for the object's signature to judge.
            if not depth or parents[0] not in _OPEN or did_you_mean(part, node) != ".":
                _raise_unknown(dotted, parents[:depth], part, node)
            with node.unlocked():
                node[part] = ConfigDict()
        node = node[part]
        if not isinstance(node, ConfigDict):
            here = ".".join(["config", *parents[: depth + 1]])
            raise UserError(f"--config.{dotted}: {here} is a value, it has no fields.")
    return node


def _raise_unknown(dotted: str, parents: list[str], part: str, node: ConfigDict) -> None:
    here = ".".join(["config", *parents])
    raise UserError(
        f"--config.{dotted}: {here} has no field {part!r}{did_you_mean(part, node)} "
        f"Legal: {', '.join(node) or 'none'}."
    )


def _parse(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and not isinstance(value, tuple | list | str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _check_type(dotted: str, text: str, value: Any, old: Any, expected: type) -> None:
    """Raises UserError unless `value` fits a field of a closed group."""
    fits = type(value) is expected or (old is None and value is None)
    if fits and expected is tuple and old:
        fits = all(type(item) in {type(known) for known in old} for item in value)
    if not fits and not (expected is float and type(value) is int):
        example = "" if old is None else f" such as {old!r}"
        name = _NAMES.get(expected, expected.__name__)
        raise UserError(f"--config.{dotted}: got {text!r}, expected {name}{example}.")
