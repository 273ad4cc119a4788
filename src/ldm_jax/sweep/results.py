"""The results of a sweep: one file of JSON lines, one line a point, written whole or not at all."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError

Row = dict[str, Any]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a line to a file of results; several processes may do so at once.

    What a kill or a full disk left of a line before is dropped first.

    Raises:
      UserError: numbers that JSON does not have, such as NaN.
    """
    try:
        line = json.dumps(dict(row), allow_nan=False).encode() + b"\n"
    except ValueError as error:
        raise UserError(
            f"{path}: a result is not JSON ({error}). Legal: finite numbers."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a file, the oldest first; [] where there is none.

    Raises:
      UserError: a line, other than a torn last one, is not JSON.
    """
    if not path.is_file():
        return []
    rows = []
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line break is torn
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}: line {number} is no JSON object. Legal: what a sweep wrote; remove the "
                "line to measure its point again."
            ) from error
    return rows


def by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each name, one a seed: the newest where a point was changed.

    Raises:
      UserError: rows of one name that were measured in different ways, which have no mean.
    """
    newest = {(row["name"], row["seed"]): row for row in rows}
    groups: dict[str, list[Row]] = {}
    for row in newest.values():
        group = groups.setdefault(row["name"], [])
        if group and any(group[0][part] != row[part] for part in ("overrides", "settings")):
            raise UserError(
                f"sweep: the seeds {group[0]['seed']} and {row['seed']} of {row['name']} differ in "
                "their overrides or settings. Legal: measure both again."
            )
        group.append(row)
    return groups
