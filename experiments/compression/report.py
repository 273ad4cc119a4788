"""The study's table, plot and sentences, from its file of results."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.results import Row, by_name

TABLE = {
    "parameters": lambda row, metric: row["parameters"] / 1e6,
    "GFLOP a step": lambda row, metric: row["flops_per_step"] / 1e9,
    "steps": lambda row, metric: row["checkpoint_step"],
    "seconds of steps": lambda row, metric: row["seconds"],
    "real": lambda row, metric: row["real"][metric],
    "reconstructed": lambda row, metric: row["reconstructed"][metric],
    "after the last step": lambda row, metric: row["scores"][metric],
}
FORMATS = {
    "parameters": "{:.2f} M",
    "GFLOP a step": "{:.1f}",
    "steps": "{:,.0f}",
    "seconds of steps": "{:,.0f}",
}
ONE_SEED = "One seed: there are no error bars, and differences of a few percent mean nothing."
SEEDS = "Means over {} seeds, ± one standard error, which is also what the bars show."


def comparable(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the newest rows by name, once they have the same judge.

    Raises:
      UserError: they do not, so that they cannot stand in one table.
    """
    groups = by_name(rows)
    judges = {
        (row["settings"]["judge"], row["settings"]["images"])
        for group in groups.values()
        for row in group
    }
    if len(judges) > 1:
        raise UserError(
            f"compression: results of {len(judges)} judges or numbers of images. Legal: those of "
            "one; measure the others again, or keep another --out."
        )
    return groups


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes it with the plot into `out`."""
    groups = comparable(rows)
    newest = [row for group in groups.values() for row in group]
    metric = next(iter(newest[0]["scores"]))
    budget = min(row["over_training"][-1]["training_flops"] for row in newest)
    steps = sorted(point["steps"] for point in newest[0]["over_sampling"])
    columns = {
        **{name: (read, FORMATS.get(name, "{:.2f}")) for name, read in TABLE.items()},
        f"at {budget / 1e12:.3g} TFLOP": (lambda row, m: at_budget(row, m, budget), "{:.2f}"),
    }
    for count in (steps[0], steps[-1]):
        columns[f"images/s, {count} steps"] = (_throughput(count), "{:.2f}")
    lines = [
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {name} | " + " | ".join(_cells(group, columns, metric)) + " |"
            for name, group in groups.items()
        ),
    ]
    save_plot(out / "quality.png", _panels(groups, metric))
    text = "\n".join([*lines, "", *_sentences(groups, metric, budget, steps)]) + "\n"
    (out / "table.md").write_text(text)
    return text


def fill_page(page: Path, size: str, text: str) -> None:
    """Puts a table between a page's marks of a size.

    Raises:
      UserError: the page has none.
    """
    begin, end = f"<!-- results of {size} -->\n", f"<!-- end of {size} -->"
    before, found, rest = page.read_text().partition(begin)
    _, ends, after = rest.partition(end)
    if not found or not ends:
        raise UserError(
            f"{page}: has no marks of the size {size}. Legal: {begin.strip()} and {end}."
        )
    page.write_text(f"{before}{begin}{text}{end}{after}")


def at_budget(row: Row, metric: str, budget: float) -> float:
    """Returns a score after `budget` FLOPs of training, on a line over their logarithm."""
    points = row["over_training"]
    flops = [math.log(point["training_flops"]) for point in points]
    return float(np.interp(math.log(budget), flops, [point["scores"][metric] for point in points]))


def _throughput(steps: int) -> Callable[[Row, str], float]:
    def read(row: Row, metric: str) -> float:
        del metric
        return next(x["images_per_second"] for x in row["over_sampling"] if x["steps"] == steps)

    return read


def _cells(group: Sequence[Row], columns: Mapping[str, Any], metric: str) -> list[str]:
    cells = []
    for read, form in columns.values():
        mean = mean_of([read(row, metric) for row in group])
        # Of what is the same for every seed, such as a number of parameters, none is shown.
        error = f" ± {form.format(mean.error)}" if mean.error else ""
        cells.append(form.format(mean.value) + error)
    return cells


def _sentences(
    groups: Mapping[str, Sequence[Row]], metric: str, budget: float, steps: Sequence[int]
) -> list[str]:
    """Returns what was found, in words that follow from the numbers."""
    row = next(iter(groups.values()))[0]
    settings, made_by = row["settings"], row["made_by"]
    seeds = min(len(group) for group in groups.values())
    quality = {
        name: mean_of([at_budget(row, metric, budget) for row in group]).value
        for name, group in groups.items()
    }
    speeds = [
        mean_of([_throughput(steps[-1])(row, metric) for row in group]).value
        for group in groups.values()
    ]
    best = min(quality, key=lambda name: quality[name])
    inner = list(quality)[1:-1]
    rises = all(a < b for a, b in itertools.pairwise(speeds))
    return [
        f"Numbers without a unit are the {metric}, lower is better, of {settings['images']} images "
        f"against {settings['reference']:,} of the training data, by DDIM with "
        f"{settings['scored_with']} steps, eta 0, averaged weights, no guidance.",
        "Seconds and FLOPs are of the diffusion model's steps, with the first stage's encoder.",
        SEEDS.format(seeds) if seeds > 1 else ONE_SEED,
        "",
        f"- At equal compute {best} is best"
        + (
            ", a middle factor, as in the paper."
            if best in inner
            else ", which is not in the middle."
        ),
        f"- Throughput {'rises' if rises else 'does not always rise'} with f.",
        "",
        f"Made on {made_by['device']} ({made_by['devices']}) with JAX {made_by['jax']}, "
        f"{made_by['date']}, code {made_by['code_sha256']}.",
    ]


def _panels(groups: Mapping[str, Sequence[Row]], metric: str) -> list[Panel]:
    """Returns Figure 6, over FLOPs and over seconds, and Figure 7."""
    training = {"training_flops": "training compute, FLOPs", "seconds": "seconds of training steps"}
    panels = [
        Panel(label, metric, _curves(groups, "over_training", x, metric), log_x=True, log_y=True)
        for x, label in training.items()
    ]
    sampling = _curves(groups, "over_sampling", "images_per_second", metric)
    return [*panels, Panel("images per second", metric, sampling, log_x=True, log_y=True)]


def _curves(
    groups: Mapping[str, Sequence[Row]], part: str, x: str, metric: str
) -> dict[str, list[tuple[float, list[float]]]]:
    """Returns, by name, (mean of x over seeds, scores over seeds) of every point on the way."""
    curves = {}
    for name, group in groups.items():
        ways = zip(*(row[part] for row in group), strict=True)
        curves[name] = [
            (mean_of([at[x] for at in way]).value, [at["scores"][metric] for at in way])
            for way in ways
        ]
    return curves
