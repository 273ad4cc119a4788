"""Registries, and plug-ins from outside the package by import path, `package.module:Name`.

To follow an import path is to run somebody's code. So it is only followed where the user named it:

- in a file given as `--config`, or in an argument `--config.a.b.name=package.module:Name`;
- by `allow_plugins("package")`, which allows all modules below it as well;
- in the environment, `LDM_JAX_PLUGINS=package,other`.

A `config.json` that was found in a folder of weights is data: an import path in it is refused
unless one of these allows it, whether or not the module happens to be imported.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError, check_in, did_you_mean

ENVIRONMENT = "LDM_JAX_PLUGINS"
_allowed: set[str] = set()
_folders: list[str] = []  # of the configurations that the user gave


class Registry(dict[str, Any]):
    """Plug-ins by the name that configurations use, open to others of the same kind.

    Attributes:
      is_kind: whether an object may stand in this registry.
      kind: what may, in words, for messages.
    """

    def __init__(self, is_kind: Callable[[Any], bool], kind: str):
        super().__init__()
        self.is_kind, self.kind = is_kind, kind

    def without(self, *names: str) -> "Registry":
        """Returns the registry less some names."""
        left = Registry(self.is_kind, self.kind)
        left.update({name: entry for name, entry in self.items() if name not in names})
        return left


def registry_of(base: type) -> Registry:
    """Returns an empty registry of subclasses of `base`."""
    kind = f"a subclass of {base.__module__}.{base.__qualname__}"
    return Registry(lambda x: isinstance(x, type) and issubclass(x, base), kind)


def registry_like(protocol: type, *methods: str) -> Registry:
    """Returns an empty registry of classes that have these methods of a protocol."""
    return Registry(
        lambda x: isinstance(x, type) and all(callable(getattr(x, m, None)) for m in methods),
        f"a class as {protocol.__module__}.{protocol.__qualname__} says",
    )


def is_import_path(name: Any) -> bool:
    """Returns whether a name of a configuration is an import path."""
    return isinstance(name, str) and ":" in name


def allow_plugins(*modules: str) -> None:
    """Lets configurations name what is in these modules or packages, from now on."""
    _allowed.update(modules)


def allow_named(settings: Any) -> None:
    """Allows the modules of all import paths in settings that the user wrote."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if key == "name" and is_import_path(value):
            allow_plugins(value.partition(":")[0])
        allow_named(value)


def look_beside(config: Path) -> None:
    """Lets plug-ins lie beside a configuration that the user gave, from now on."""
    folder = str(config.parent.absolute())
    if folder in _folders:
        _folders.remove(folder)
    _folders.insert(0, folder)


def find_plugin(what: str, registry: Mapping[str, Any], name: Any) -> Any:
    """Returns what a registry holds under a name, or what an import path names.

    Args:
      what: the field that named it, for messages.
      registry: import paths are for a `Registry` only.
      name: of the registry, or 'package.module:Name'. The module is one that Python finds, or
        lies beside a configuration of `look_beside` or in the current directory, which are looked
        at last.

    Raises:
      UserError: unknown, not allowed, not to be imported, or of another kind.
    """
    if not isinstance(registry, Registry) or not is_import_path(name):
        check_in(what, name, registry)
        return registry[name]
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"{what}: got {name!r}. Legal: an import path as package.module:Name.")
    _check_allowed(what, name, module_name)
    module = _import(what, module_name)
    if not hasattr(module, attribute):
        public = [x for x in vars(module) if not x.startswith("_")]
        raise UserError(
            f"{what}={name}: {module_name} has no {attribute!r}{did_you_mean(attribute, public)} "
            f"Legal: {registry.kind}."
        )
    found = getattr(module, attribute)
    if not registry.is_kind(found):
        raise UserError(f"{what}={name}: got {_shown(found)}. Legal: {registry.kind}.")
    return found


def _check_allowed(what: str, name: str, module: str) -> None:
    named = {x.strip() for x in os.environ.get(ENVIRONMENT, "").split(",")}
    parts = module.split(".")
    parents = {".".join(parts[: n + 1]) for n in range(len(parts))}
    if not parents & (named | _allowed):
        raise UserError(
            f"{what}={name}: a stored configuration asks for code from outside ldm_jax. Legal, if "
            f"you trust it: {ENVIRONMENT}={module} in the environment, or in Python "
            f"ldm_jax.core.plugins.allow_plugins('{module}')."
        )


def _import(what: str, module: str) -> Any:
    added = [x for x in dict.fromkeys((*_folders, os.getcwd())) if x not in sys.path]
    sys.path.extend(added)  # last, so that no file there hides an installed package
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            beside = f", or beside the configuration, in {_folders[0]}" if _folders else ""
            raise UserError(
                f"{what}: no module {error.name!r}. Legal: an installed one, or one on PYTHONPATH "
                f"or in the current directory, {os.getcwd()}{beside}."
            ) from error
        place = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{what}: importing {module} failed at {place.filename}:{place.lineno} "
            f"({type(error).__name__}: {first}). Legal: a module that imports."
        ) from error
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)


def _shown(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"a {type(found).__name__}"
