"""Our own layout of weights: config.json, and one safetensors file per component.

`latent_scale.json` says what the scale of a diffusion model's latents was measured on.
Written by `ldm-jax convert`; a training run keeps its weights through Orbax instead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.interop.diffusers import read_json
from ldm_jax.interop.foreign import COMPONENTS, Component, Foreign
from ldm_jax.interop.mapping import Entry, own_entries
from ldm_jax.interop.tensors import open_tensors

CONFIG = "config.json"
# Beside the U-Net's parameters: the map between the first stage's latents and its own.
LATENT_SCALE = ("latent_scale/shift", "latent_scale/scale")
SCALE_RECORD = "latent_scale.json"


def weight_path(folder: Path, component: str) -> Path:
    """Returns where a component's parameters are kept."""
    return folder / f"{component}.safetensors"


def is_own(path: Path) -> bool:
    """Returns whether a folder holds weights in our layout."""
    return (path / CONFIG).is_file() and any(weight_path(path, c).is_file() for c in COMPONENTS)


def read_own(path: Path) -> Foreign:
    """Returns what a folder in our layout holds; only names and shapes are read.

    Raises:
      UserError: it is damaged.
    """
    settings: Mapping[str, Any] = read_json(path / CONFIG)
    missing = [group for group in ("task", "data", "sample") if group not in settings]
    if missing:
        raise UserError(f"{path / CONFIG}: damaged (no {', '.join(missing)}).")
    components = {
        component: Component(open_tensors(file), _entries, LATENT_SCALE.__contains__)
        for component in COMPONENTS
        if (file := weight_path(path, component)).is_file()
    }
    tokenizer = path / "tokenizer"
    groups = {name: settings[name] for name in ("task", "data", "sample")}
    record = path / SCALE_RECORD
    return Foreign(
        "ldm_jax",
        groups,
        components,
        tokenizer=tokenizer if tokenizer.is_dir() else None,
        scale_record=read_json(record) if record.is_file() else {},
    )


def _entries(module: Any, params: PyTree) -> list[Entry]:
    del module
    return own_entries(params)


def write_config(folder: Path, text: str) -> None:
    """Writes config.json, last of all, since it is what makes the folder a model."""
    temporary = folder / f"{CONFIG}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / CONFIG)
