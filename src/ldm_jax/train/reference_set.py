"""Real images to compare with, preprocessed as in training, and what models are conditioned on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import fields_of
from ldm_jax.core.plugins import find_plugin
from ldm_jax.data import SOURCES
from ldm_jax.data.ahead import available_threads, map_ahead
from ldm_jax.data.split import files_of
from ldm_jax.data.transforms import WHITE
from ldm_jax.train import assemble_data
from ldm_jax.train.cache_key import content_key
from ldm_jax.train.checkpoint import MAY_CHANGE
from ldm_jax.train.code_version import package_version

TRAIN, HELD_OUT = "train", "held_out"
_SEED = 0  # of the order
_AT_ONCE = 16  # examples that a thread prepares
RESIZE = "Pillow's bicubic, antialiased"


class ReferenceSet:
    """Examples in an order of their own, drawn once and for all.

    So any first part of them stands for the whole, and a larger part later has the same and more.

    Args:
      config: of the data; `open_reference` makes it.
      source: of the examples.
      name: 'train', 'held_out' or a folder.
      split: of the data set, where it is not that of the configuration.

    Attributes:
      name: as given.
      key: what the images and their order follow from, as JSON.
      preprocessing: how images are brought to one size, as JSON.
      class_names: of the source.
    """

    def __init__(self, config: ConfigDict, source: Any, name: str, split: str | None):
        self._config, self._source, self.name = config, source, name
        self._tokenizer = assemble_data.build_tokenizer(config)
        self._images_only = config.copy_and_resolve_references()
        with self._images_only.unlocked(), self._images_only.ignore_type():
            self._images_only.data.derive = {}
        self.class_names = source.class_names
        # A bit generator's raw stream is fixed for ever; NumPy's shuffles are not.
        draws = np.random.PCG64(_SEED).random_raw(len(source))
        self._order = np.argsort(draws, kind="stable")
        data = config.data
        self.preprocessing = {
            "crop": "central square",
            "resize": RESIZE,
            "image_size": data.image_size,
            "channels": data.get("channels") or 3,
            "background": list(data.get("background") or WHITE),
        }
        settings = data.source.to_dict().items()
        key = {
            "part": name if name in (TRAIN, HELD_OUT) else "folder",
            "split": split,
            "holdout": data.get("holdout"),
            "source": {k: v for k, v in settings if k not in MAY_CHANGE},
            **content_key(source),
            "files": _fingerprint(source),
            "order": _SEED,
            **self.preprocessing,
            "ldm_jax": package_version(),
        }
        self.key: Mapping[str, Any] = json.loads(json.dumps(key, default=str))

    def __len__(self) -> int:
        return len(self._order)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Returns uint8 [n, H, W, C] by their numbers in the order, which starts over at its end.

        Nothing but images is asked of the source.
        """
        return np.asarray(self._examples(self._images_only, numbers, (), None, None)["image"])

    def conditions(
        self, numbers: np.ndarray, entries: Sequence[str], limits: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        """Returns images and what else a conditioner reads of the examples, by name.

        Raises:
          UserError: the source does not have it.
        """
        tokenizer = self._tokenizer if "tokens" in entries else None
        return self._examples(self._config, numbers, tuple(entries), tokenizer, limits)

    def captions(self, numbers: np.ndarray) -> list[str]:
        """Returns the captions of the examples.

        Raises:
          UserError: the source has none.
        """
        places = [int(n) for n in self._order[numbers % len(self)]]
        found = list(map_ahead(self._source.__getitem__, places, available_threads()))
        if found and "text" not in found[0]:
            raise UserError(
                f"{self.name}: its images have no captions. Legal: a set with captions for the "
                "CLIP score."
            )
        return [example["text"] for example in found]

    def _examples(
        self,
        config: ConfigDict,
        numbers: np.ndarray,
        entries: tuple[str, ...],
        tokenizer: Any,
        limits: Mapping[str, int] | None,
    ) -> dict[str, np.ndarray]:
        keys = tuple(dict.fromkeys(("image", *entries)))
        places = self._order[numbers % len(self)]
        parts = np.array_split(places, -(-len(places) // _AT_ONCE))

        def load(part: np.ndarray) -> dict[str, Any]:
            return assemble_data.build_examples(config, self._source, tokenizer, part, keys, limits)

        batches = list(map_ahead(load, parts, available_threads()))
        return {key: np.concatenate([batch[key] for batch in batches]) for key in keys}


def open_reference(
    config: ConfigDict, name: str, split: str | None = None, flag: str = "--reference"
) -> ReferenceSet:
    """Returns a part of the data of a configuration, or a folder of images in their place.

    Args:
      config: of the run.
      name: 'train': what is trained on; 'held_out': what is kept from it, or evaluated on; or a
        folder.
      split: of the data set, all of which is taken; for 'train' alone.
      flag: that gave the name, for messages.

    Raises:
      UserError: there is none.
    """
    config = config.copy_and_resolve_references()
    is_folder = name not in (TRAIN, HELD_OUT)
    if is_folder and not Path(name).expanduser().is_dir():
        raise UserError(
            f"{flag}={name}: no such folder. Legal: {TRAIN}, {HELD_OUT}, or a folder of images."
        )
    if split is not None:
        _check_split(config, name, split)
    with config.unlocked(), config.ignore_type():
        config.data.latent_cache = None  # these are the images themselves
        if is_folder:
            config.data.source = {"name": "folder", "path": name}
        if split is not None:
            config.data.source.split = split
        if is_folder or split is not None:
            config.data.holdout = config.data.evaluation_source = None
    train, held_out = assemble_data.build_source(config)
    if name != HELD_OUT:
        return ReferenceSet(config, train, name, split)
    if held_out is None:
        raise UserError(
            f"{flag}={HELD_OUT}: this run holds nothing out. Legal: {TRAIN}, a folder, or a "
            "run with config.data.holdout or config.data.evaluation_source."
        )
    return ReferenceSet(config, held_out, name, split)


def _check_split(config: ConfigDict, name: str, split: str) -> None:
    source = config.data.source
    target = find_plugin("config.data.source.name", SOURCES, source.name)
    if name != TRAIN or "split" not in fields_of(target):
        what = f"the source {source.name!r}, which has no splits" if name == TRAIN else name
        raise UserError(
            f"--split={split}: got {what}. Legal: with --reference={TRAIN}, and a data source that "
            "has splits, such as tfds."
        )


def _fingerprint(source: Any) -> str | None:
    """Returns the hash of the files that a source, or the whole that it is a part of, consists of.

    None for sources that have none.
    """
    files: Any = files_of(source)
    return files.fingerprint() if hasattr(files, "fingerprint") else None
