"""Encoders of text and images that others have trained, read from a folder of transformers.

To add one: a conditioner, the table of what transformers calls its layers, and a row in `TOWERS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax.conditioning.bert_text import BertText
from ldm_jax.conditioning.clip_image import ClipImage
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.interop.clip_image_names import (
    clip_image_settings,
    is_not_of_clip_image,
    transformers_clip_image,
)
from ldm_jax.interop.conditioner_names import transformers_bert, transformers_clip
from ldm_jax.interop.diffusers import open_weights, read_json
from ldm_jax.interop.diffusers_settings import clip_settings
from ldm_jax.interop.foreign import Component, Renamed, entries_by, read_parameters, take_account
from ldm_jax.interop.mapping import Cells
from ldm_jax.interop.tensors import one_line
from ldm_jax.nn.normalization import EPS_BERT


class Tower(NamedTuple):
    """How transformers keeps one of our encoders.

    Attributes:
      settings: from config.json to the fields of our conditioner that it settles, and its 'name'.
      cells: from our conditioner to where each of its layers is kept, without the prefix.
      prefix: of the names of the tensors, in folders that have one.
      unused: whether a tensor, named without the prefix, holds nothing that the conditioner reads.
    """

    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    cells: Callable[[Any], Cells]
    prefix: str
    unused: Callable[[str], bool]


def _clip_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a text tower, also of the one in a whole CLIP."""
    return clip_settings(config["text_config"] if config.get("model_type") == "clip" else config)


# What BertText takes for granted, and what config.json says where it says nothing.
_BERT_FIXED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": EPS_BERT,
    "position_embedding_type": "absolute",
    "is_decoder": False,
}


def _bert_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of `BertText` for the config.json of a BertModel."""
    for field, expected in _BERT_FIXED.items():
        if config.get(field, expected) != expected:
            raise UserError(f"config.json: got {field}={config[field]!r}. Legal: {expected!r}.")
    if config["intermediate_size"] != 4 * config["hidden_size"]:
        raise UserError("config.json: intermediate_size must be 4 x hidden_size.")
    return {
        "name": "bert_text",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "num_positions": config["max_position_embeddings"],
        "num_types": config.get("type_vocab_size", 2),
        "pad_id": config.get("pad_token_id", 0),
    }


TOWERS: dict[type, Tower] = {
    ClipText: Tower(
        _clip_settings,
        transformers_clip,
        "text_model.",
        lambda name: name.endswith("position_ids"),
    ),
    BertText: Tower(
        _bert_settings,
        transformers_bert,
        "bert.",
        lambda name: name.endswith("position_ids") or name.startswith("pooler."),
    ),
    ClipImage: Tower(clip_image_settings, transformers_clip_image, "", is_not_of_clip_image),
}


def is_tower(path: Path) -> bool:
    """Returns whether a folder holds a model of transformers, by its config.json."""
    config = path / "config.json"
    return config.is_file() and "model_type" in read_json(config)


def read_tower(what: str, folder: Path, module: Any, params: PyTree) -> PyTree:
    """Returns the parameters of a text encoder, NumPy arrays of the types on disk.

    Args:
      what: the field that named the folder.
      folder: of transformers: config.json, and weights in safetensors or .bin.
      module: one of `TOWERS`.
      params: its parameters, or their shapes.

    Raises:
      UserError: another encoder, or one of other sizes, or tensors that do not fit.
    """
    tower = TOWERS.get(type(module))
    if tower is None:
        legal = ", ".join(known.__name__ for known in TOWERS)
        raise UserError(
            f"{what}={folder}: a folder of transformers, whose names for the layers of "
            f"{type(module).__name__} are not known. Legal: with {legal}."
        )
    try:
        settings = tower.settings(read_json(folder / "config.json"))
    except UserError as error:
        raise UserError(f"{what}={folder}: {error}") from error
    _check_fields(f"{what}={folder}", settings, module)
    component = tower_component(folder, tower)
    with component.tensors:
        entries = component.entries(module, params)
        account = take_account(entries, component)
        if not account.is_clean:
            lines = [f"missing {name}" for name in account.missing]
            lines += [f"unexpected {name}" for name in account.unexpected]
            lines += [
                f"{name} has shape {got}, expected {expected}"
                for name, got, expected in account.mismatched
            ]
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise UserError(f"{what}={folder}: {'; '.join(map(one_line, lines[:3]))}{more}.")
        return read_parameters(entries, component.tensors)


def tower_component(folder: Path, tower: Tower) -> Component:
    """Returns the tensors of a text encoder; those of other parts of the model are left out."""
    tensors = open_weights(folder)
    names = list(tensors.keys())
    inside = [name for name in names if name.startswith(tower.prefix)] or names
    renamed = {name.removeprefix(tower.prefix): name for name in inside}
    return Component(Renamed(tensors, renamed), entries_by(tower.cells), tower.unused)


def _check_fields(what: str, settings: Mapping[str, Any], module: Any) -> None:
    """Raises UserError for fields of the conditioner that the folder settles otherwise."""
    fields = {name: value for name, value in settings.items() if name != "name"}
    wrong = {name: value for name, value in fields.items() if getattr(module, name) != value}
    if wrong:
        got = ", ".join(f"{name}={getattr(module, name)}" for name in wrong)
        legal = " ".join(f"--config.task.conditioner.{k}={v}" for k, v in wrong.items())
        raise UserError(f"{what}: is not of config.task.conditioner with {got}. Legal: {legal}.")
