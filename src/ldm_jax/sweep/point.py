"""A point of a sweep: a configuration, what it changes of it, and a seed."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.train.checkpoint import MAY_CHANGE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: what it is in tables and plots; points that differ in their seed alone share it.
      config: `FILE` or `FILE:ARG`, as after --config.
      seed: of `config.seed`.
      overrides: values of `config`, by dotted name: {'train.steps': 500}.
      settings: what else its result follows from, as JSON: how it is measured.
      places: overrides that say where things lie, and so change no result.
    """

    name: str
    config: str
    seed: int = 0
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    places: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):  # it names a folder
            raise UserError(
                f"sweep: point {self.name!r}: legal are letters, digits, and _ . + - after them."
            )
        for place in self.places:
            if place.rpartition(".")[2] not in MAY_CHANGE:
                raise UserError(
                    f"sweep: point {self.name}: {place!r} is no place. Legal: an override, or "
                    f"fields named {', '.join(MAY_CHANGE)}."
                )

    def make_config(self) -> ConfigDict:
        """Returns the configuration of the run, locked.

        Raises:
          UserError: no such file, or an override that does not fit it.
        """
        config = load_config(self.config)
        overrides = {**self.overrides, **self.places}
        apply_overrides(config, [f"--config.{name}={value}" for name, value in overrides.items()])
        config.seed = self.seed
        return config

    def key(self) -> str:
        """Returns 16 hexadecimal digits of what the result follows from, beside the code.

        That is the configuration as it comes out, not what it was made of: a changed file makes
        another point, and a renamed one does not. Where things lie does not count.
        """
        config = json.loads(self.make_config().to_json_best_effort())
        fields = dict(_flat(config))
        text = json.dumps([self.name, fields, _plain(self.settings)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Returns the point as JSON, without the folders of the machine that it ran on."""
        told = {k: v for k, v in self.overrides.items() if k.rpartition(".")[2] not in MAY_CHANGE}
        path, colon, argument = self.config.partition(":")
        return {
            "name": self.name,
            "config": "/".join(path.replace("\\", "/").split("/")[-2:]) + colon + argument,
            "seed": self.seed,
            "overrides": _plain(told),
            "settings": _plain(self.settings),
        }


def check_points(points: Sequence[Point]) -> dict[str, Point]:
    """Returns points by key, in their order.

    Raises:
      UserError: there are none, or two of a name and seed.
    """
    if not points:
        raise UserError("sweep: got no points. Legal: at least one.")
    seen = set()
    for point in points:
        if (point.name, point.seed) in seen:
            raise UserError(
                f"sweep: two points are named {point.name} and have the seed {point.seed}. Legal: "
                "another name, or another seed."
            )
        seen.add((point.name, point.seed))
    return {point.key(): point for point in points}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of a configuration by dotted name, but for those that say where."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in MAY_CHANGE:
            yield f"{prefix}{key}", value


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what comes back from JSON, where tuples are lists."""
    return json.loads(json.dumps(dict(tree)))
