"""Goodput: the share of a run's wall time that went into steps that count.

    goodput = seconds in steps that count / seconds of wall time

A step counts if its work is in the state that the run goes on from. So its time does, waiting for
data included, but not: building the model, compiling, restoring, saving, evaluating, drawing, nor
steps that a kill took back. Wall time runs from the call of `train`, in every process of the run;
both sums go on from what `metrics.jsonl` tells of the processes before. Nobody knows, and nobody
counts, the time between two processes, that from a process' last row to its end, nor any of a
process that was killed before its first row, which may also hide the steps that it took back.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_USEFUL, _WALL = "useful_seconds", "wall_seconds"


class Spent(NamedTuple):
    """Seconds that went into steps that count, and all seconds."""

    useful: float = 0.0
    wall: float = 0.0


class Goodput:
    """Counts the seconds of this process on top of those of earlier ones.

    Args:
      clock: seconds, from wherever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._began = clock, clock()
        self._earlier, self._useful = Spent(), 0.0
        self._stepping_since: float | None = None

    def go_on(self, earlier: Spent) -> None:
        """Adds what earlier processes of the run have spent."""
        self._earlier = earlier

    def stepped(self) -> None:
        """Says that a step was called; from the first on, time is time of steps.

        That first call comes back when the step is compiled, and runs on the device after it.
        """
        if self._stepping_since is None:
            self._stepping_since = self._clock()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While entered, time is not that of steps; the device should have finished them."""
        self._settle()
        stepping = self._stepping_since is not None
        try:
            yield
        finally:
            self._stepping_since = self._clock() if stepping else None

    def row(self) -> dict[str, float]:
        """Returns `goodput`, and the two sums that it comes from, for the log."""
        self._settle()
        useful = self._earlier.useful + self._useful
        wall = self._earlier.wall + self._clock() - self._began
        return {"goodput": useful / wall if wall else 0.0, _USEFUL: useful, _WALL: wall}

    def _settle(self) -> None:
        now = self._clock()
        if self._stepping_since is not None:
            self._useful += now - self._stepping_since
            self._stepping_since = now


def spent_before(rows: Path, step: int) -> Spent:
    """Returns what the processes before this one spent, as far as they wrote it down.

    Args:
      rows: `metrics.jsonl`, before the rows of steps that are to be done again are dropped.
      step: that the run goes on from; later ones do not count, but their time has passed.
    """
    spent = Spent()
    if not rows.is_file():
        return spent
    for line in rows.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parse(line)
        if _USEFUL in row and _WALL in row:
            useful = row[_USEFUL] if row["step"] <= step else spent.useful
            spent = Spent(useful, row[_WALL])
    return spent


def _parse(line: str) -> Mapping[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return {}  # torn by a kill
