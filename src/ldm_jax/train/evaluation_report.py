"""The report of an evaluation, as JSON and Markdown: numbers, and all that made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.train.scores import Score

_MADE_BY = "features made by"
_FIELDS = {"metric": str, "name": str, "value": float, "settings": dict, "code": str}


class Report:
    """Scores of one set of samples against one set of real images, on disk.

    It keeps what was found before, so that nothing is computed twice. Each score says by which code
    it was computed; the others' is no reason to compute it again.

    Args:
      path: of the .json file; the Markdown lies beside it.
      pins: what the scores follow from, as JSON: groups of fields.

    Attributes:
      path: as given.

    Raises:
      UserError: the file there is another report, or damaged.
    """

    def __init__(self, path: Path, pins: Mapping[str, Mapping[str, Any]]):
        self.path = path
        self._pins = json.loads(json.dumps(pins))
        self._rows: list[dict[str, Any]] = []
        self._made_by: dict[str, list[str]] = {}
        if path.is_file():
            found = _read(path, self._pins)
            self._rows, self._made_by = found["scores"], found[_MADE_BY]

    def has(self, metric: str, settings: Mapping[str, Any]) -> bool:
        """Returns whether this metric is here, with the same settings."""
        return any(_is(row, metric, settings) for row in self._rows)

    def add(self, scores: Sequence[Score], settings: Mapping[str, Any], code: str) -> None:
        """Takes up the scores of a metric."""
        for score in scores:
            row = {**score._asdict(), "settings": dict(settings), "code": code}
            self._rows.append(json.loads(json.dumps(row)))

    def write(self, made_by: Mapping[str, Sequence[str]]) -> None:
        """Writes both files.

        Args:
          made_by: the code that made the features, by what they are of.
        """
        for name, versions in made_by.items():
            self._made_by[name] = sorted({*self._made_by.get(name, ()), *versions})
        whole = {**self._pins, _MADE_BY: self._made_by, "scores": self._rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".json", json.dumps(whole, indent=2) + "\n"), (".md", _table(whole))):
            part = self.path.with_suffix(f"{suffix}.part")
            part.write_text(text, encoding="utf-8")
            part.replace(self.path.with_suffix(suffix))

    def chosen(self, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the report with the scores of some metrics, given with their settings."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        found["scores"] = [
            row for name, x in metrics.items() for row in self._rows if _is(row, name, x)
        ]
        return found


def _is(row: Mapping[str, Any], metric: str, settings: Mapping[str, Any]) -> bool:
    return row["metric"] == metric and row["settings"] == dict(settings)


def _read(path: Path, pins: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows, made_by = found["scores"], found[_MADE_BY]
        whole = isinstance(made_by, dict) and all(
            isinstance(row[x], kind) for row in rows for x, kind in _FIELDS.items()
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). Legal: remove it.") from error
    if not whole or any(found.get(group) != fields for group, fields in pins.items()):
        raise UserError(f"{path}: the report of something else. Legal: remove it.")
    return dict(found)


def score_lines(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each score: its name and number."""
    width = max((len(row["name"]) for row in scores), default=0)
    return [f"{row['name']:<{width}}  {_number(row)}" for row in scores]


def _number(row: Mapping[str, Any]) -> str:
    text = f"{row['value']:.6g}"
    return text if row.get("std") is None else f"{text} ± {row['std']:.3g}"


def _table(whole: Mapping[str, Any]) -> str:
    """Returns the report in Markdown."""
    lines = ["# Evaluation", "", "| score | value | settings | code |", "|---|---|---|---|"]
    for row in whole["scores"]:
        settings = ", ".join(f"{name}={x}" for name, x in row["settings"].items())
        lines.append(f"| {_cell(row['name'])} | {_number(row)} | {settings} | {row['code']} |")
    lines += ["", "What follows ± is the deviation over subsets or splits.", ""]
    for group, fields in whole.items():
        if group == "scores" or not fields:
            continue
        lines += [f"## {group.capitalize()}", "", "| field | value |", "|---|---|"]
        lines += [f"| {name} | {_cell(x)} |" for name, x in fields.items()]
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
