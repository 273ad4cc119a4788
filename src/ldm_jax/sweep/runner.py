"""Runs the points of a sweep that have no result yet, one by one or several at a time."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ldm_jax.core.checks import UserError
from ldm_jax.core.lock import folder_lock
from ldm_jax.sweep.point import Point, check_points
from ldm_jax.sweep.results import Row, append_row, read_rows
from ldm_jax.sweep.shares import make_shares
from ldm_jax.sweep.versions import versions
from ldm_jax.sweep.workers import Job, run_jobs

# (point, its folder) -> what was found, as JSON. It goes on from what the folder already has.
Measure = Callable[[Point, Path], Mapping[str, Any]]


def run_sweep(
    points: Sequence[Point],
    measure: Measure,
    results: Path,
    workdir: Path,
    processes: int = 1,
) -> list[Row]:
    """Returns the row of every point, in their order, once all have one.

    A point that has a row in `results` is not run; a changed one is another point. Each has a
    folder, `workdir/NAME-SEED-KEY`, which it finds again when it was cut. After a failure no other
    point begins; those that run end and are kept.

    Args:
      points: of the sweep.
      measure: of one point. With several processes it is a function of a module, since they import
        it.
      results: the file of JSON lines.
      workdir: of all points.
      processes: at once, each with its share of the GPUs, or of the cores where there are none.
        With 1 the points run here, on all devices.

    Raises:
      UserError: points or a number of processes that do not fit, or a point that failed.
    """
    wanted = check_points(points)
    shares = make_shares(processes)
    done = {row["key"] for row in read_rows(results)}
    pending = {key: point for key, point in wanted.items() if key not in done}
    logging.info("sweep: %d points, %d without a result", len(wanted), len(pending))
    if processes == 1:
        for key, point in pending.items():
            logging.info("sweep: %s begins", _label(point))
            run_point(key, point, measure, results, workdir)
    else:
        arguments = (measure, Path(results), Path(workdir))
        jobs = [Job(_label(p), _run_apart, (key, p, *arguments)) for key, p in pending.items()]
        run_jobs(jobs, shares)
    rows = {row["key"]: row for row in read_rows(results)}
    return [rows[key] for key in wanted]


def run_point(key: str, point: Point, measure: Measure, results: Path, workdir: Path) -> None:
    """Measures one point and adds its row, unless another process has done so by now.

    Raises:
      UserError: another process is at it, or what `measure` raises.
    """
    folder = workdir / f"{point.name}-{point.seed}-{key[:8]}"
    with folder_lock(folder, f"--workdir={workdir}", f"measuring {_label(point)}"):
        if any(row["key"] == key for row in read_rows(results)):
            return
        began = time.monotonic()
        found = dict(measure(point, folder))
        row = {"key": key, **point.describe(), **found}
        # Of this call alone, which may have found a part of it done.
        row["seconds_of_last_call"] = round(time.monotonic() - began, 1)
        append_row(results, {**row, "made_by": versions()})


def _run_apart(
    key: str, point: Point, measure: Measure, results: Path, workdir: Path
) -> str | None:
    """Runs a point in a process of its own; returns a sentence where it failed."""
    try:
        run_point(key, point, measure, results, workdir)
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  the sweep's process hears of it and raises
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _label(point: Point) -> str:
    return f"{point.name}, seed {point.seed}"
