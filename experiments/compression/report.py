"""The study's table, plot and sentences, from its file of results."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ldm_jax.sweep.page import Column, about_seeds, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.results import Row


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("compression", rows, ("judge", "images", "dataset"))
    groups = dict(sorted(groups.items(), key=lambda item: int(item[0].removeprefix("LDM-"))))
    newest = [row for group in groups.values() for row in group]
    metric = next(iter(newest[0]["scores"]))
    budget = min(row["over_training"][-1]["training_flops"] for row in newest)
    steps = sorted(point["steps"] for point in newest[0]["over_sampling"])
    columns = {
        "parameters": Column(lambda row: row["parameters"] / 1e6, "{:.2f} M"),
        "GFLOP a step": Column(lambda row: row["flops_per_step"] / 1e9, "{:.1f}"),
        "steps": Column(lambda row: row["checkpoint_step"], "{:,.0f}"),
        "seconds of steps": Column(lambda row: row["seconds"], "{:,.0f}"),
        "real": Column(lambda row: row["real"][metric]),
        "reconstructed": Column(lambda row: row["reconstructed"][metric]),
        "after the last step": Column(lambda row: row["scores"][metric]),
        f"at {budget / 1e12:.3g} TFLOP": Column(lambda row: at_budget(row, metric, budget)),
        f"images/s, {steps[0]} steps": Column(_throughput(steps[0])),
        f"images/s, {steps[-1]} steps": Column(_throughput(steps[-1])),
    }
    save_plot(out / "quality.png", _panels(groups, metric))
    lines = [*make_table(groups, columns), "", *_sentences(groups, metric, budget, steps)]
    return "\n".join(lines) + "\n"


def at_budget(row: Row, metric: str, budget: float) -> float:
    """Returns a score after `budget` FLOPs of training, on a line over their logarithm."""
    points = row["over_training"]
    flops = [math.log(point["training_flops"]) for point in points]
    return float(np.interp(math.log(budget), flops, [point["scores"][metric] for point in points]))


def _throughput(steps: int) -> Callable[[Row], float]:
    def read(row: Row) -> float:
        return next(x["images_per_second"] for x in row["over_sampling"] if x["steps"] == steps)

    return read


def _sentences(
    groups: Mapping[str, Sequence[Row]], metric: str, budget: float, steps: Sequence[int]
) -> list[str]:
    """Returns what was found, in words that follow from the numbers."""
    settings = next(iter(groups.values()))[0]["settings"]
    quality = {
        name: mean_of([at_budget(row, metric, budget) for row in group]).value
        for name, group in groups.items()
    }
    speeds = [
        mean_of([_throughput(steps[-1])(row) for row in group]).value for group in groups.values()
    ]
    best = min(quality, key=lambda name: quality[name])
    inner = list(quality)[1:-1]
    rises = all(a < b for a, b in itertools.pairwise(speeds))
    return [
        f"Numbers without a unit are the {metric}, lower is better, of {settings['images']} images "
        f"against {settings['reference']:,} of the training data, by DDIM with "
        f"{settings['scored_with']} steps, eta 0, averaged weights, no guidance.",
        "Seconds and FLOPs are of the diffusion model's steps, with the first stage's encoder.",
        about_seeds(groups),
        "",
        f"- At equal compute {best} is best"
        + (
            ", a middle factor, as in the paper."
            if best in inner
            else ", which is not in the middle."
        ),
        f"- Throughput {'rises' if rises else 'does not always rise'} with f.",
        "",
        made_on(groups),
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
