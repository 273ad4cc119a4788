"""What the network predicts, under which schedule of noise: eps, x0 or v; linear, cosine, zero-SNR.

python experiments/parameterization/run.py --size small --data TFDS_DIR \\
  --out experiments/parameterization
Writes results.jsonl (a line a pair), table.md and quality.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw
from ldm_jax.sweep.judge import open_judge
from ldm_jax.sweep.models import SMOKE_DIFFUSION, files_sha256, first_stage, trained
from ldm_jax.sweep.page import Column, about_seeds, best, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Domain, Study, check_given, main
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, STAGE = (str(CONFIGS / f"fashion_mnist_{name}.py") for name in ("class", "autoencoder"))
PUBLISHED = str(CONFIGS / "published" / "ffhq.py")
SCHEDULES = {
    "linear": {"task.schedule.name": "linear"},
    "cosine": {"task.schedule.name": "cosine"},
    "zero-SNR": {"task.schedule.name": "linear", "task.schedule.zero_terminal_snr": True},
}
# eps says nothing of an image where there is only noise, as at the end of the last two.
PAIRS = [
    (target, schedule)
    for schedule in SCHEDULES
    for target in ("eps", "x0", "v")
    if target != "eps" or schedule == "linear"
]
SMOKE_PAIRS = [("eps", "linear"), ("v", "zero-SNR")]
TRAINING = {
    "smoke": SMOKE_DIFFUSION,
    "small": {"train.steps": 600, "train.batch_size": 32, "train.sample_every": 600},
    "paper": {},
}
SETTINGS = {
    "smoke": {"images": 8, "reference": 16, "few": 2, "many": 3},
    "small": {"images": 250, "reference": 10_000, "few": 10, "many": 50},
    "paper": {"images": 50_000, "reference": 50_000, "few": 20, "many": 200},
}


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each pair and seed."""
    size = arguments.size
    check_given(arguments, "first_stage")
    given = arguments.first_stage
    stage = files_sha256(given) if given else stage_of(arguments).key()
    return [
        Point(
            f"{target}-{schedule}",
            PUBLISHED if size == "paper" else MODEL,
            seed,
            {**TRAINING[size], "task.parameterization": target, **SCHEDULES[schedule]},
            {
                **SETTINGS[size],
                "target": target,
                "schedule": schedule,
                "first_stage": stage,
                "judge": judge,
            },
            {"data.source.path": arguments.data},
        )
        for seed in arguments.seeds
        for target, schedule in (SMOKE_PAIRS if size == "smoke" else PAIRS)
    ]


def stage_of(arguments: argparse.Namespace) -> Point:
    """Returns the first stage that all models are trained on."""
    return first_stage("autoencoder", STAGE, arguments.size, arguments.data)


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the scores of one pair, by few and by many steps of sampling."""
    config, settings = point.make_config(), point.settings
    stage = arguments.first_stage or trained(stage_of(arguments), folder.parents[1])
    config.task.first_stage.workdir = str(stage)
    config.sample.grid_images = 0
    train(config, folder / "model")
    pipeline = Pipeline.from_checkpoint(folder / "model")
    judge = open_judge(config, extractor, settings["reference"])
    few, many = (
        judge.scores(
            draw(
                pipeline,
                settings["images"],
                steps=settings[name],
                spacing="trailing",  # from the very end of the schedule
                guidance_scale=1.0,
            )
        )
        for name in ("few", "many")
    )
    return {"scores": many, "with_few_steps": few}


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("parameterization", rows, ("judge", "images", "many", "first_stage"))
    first = next(iter(groups.values()))[0]
    settings, metric = first["settings"], next(iter(first["scores"]))
    columns = {
        f"{settings['many']} steps": Column.of(metric, "{:.2f}"),
        f"{settings['few']} steps": Column(lambda row: row["with_few_steps"][metric]),
    }
    save_plot(out / "quality.png", [_panel(groups, metric, x) for x in ("many", "few")])
    of_target = {
        target: best(_where(groups, "target", target), metric)
        for target in dict.fromkeys(row[0]["settings"]["target"] for row in groups.values())
    }
    lines = [
        *make_table(groups, columns),
        "",
        f"The {metric}, lower is better, of {settings['images']:,} images against "
        f"{settings['reference']:,} real ones; DDIM, eta 0, no guidance, averaged weights.",
        about_seeds(groups),
        "",
        f"- Best of all is {best(groups, metric)}.",
        "- The best schedule for "
        + ", ".join(f"{target} is {name.partition('-')[2]}" for target, name in of_target.items())
        + ".",
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def _where(groups: Mapping[str, list[Row]], setting: str, value: str) -> dict[str, list[Row]]:
    return {name: x for name, x in groups.items() if x[0]["settings"][setting] == value}


def _panel(groups: Mapping[str, list[Row]], metric: str, which: str) -> Panel:
    """Returns a curve for each target over the schedules, by number."""
    part = {"many": "scores", "few": "with_few_steps"}[which]
    names = list(SCHEDULES)
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for group in groups.values():
        settings = group[0]["settings"]
        at = (names.index(settings["schedule"]), [row[part][metric] for row in group])
        curves.setdefault(settings["target"], []).append(at)
    steps = next(iter(groups.values()))[0]["settings"][which]
    return Panel(f"{', '.join(names)} (0, 1, 2); {steps} steps", metric, curves, log_y=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    parser.add_argument("--first_stage", help="for `paper`: a trained or converted VQ f = 4")


STUDY = Study(
    Path(__file__).parent,
    __doc__,
    make_points,
    measure_point,
    write_report,
    Domain("Fashion-MNIST", MODEL),
    add_arguments,
)

if __name__ == "__main__":
    main(STUDY)
