"""How many steps, of which sampler: quality over steps and over time.

python experiments/samplers/run.py --size small --data TFDS_DIR --out experiments/samplers
Writes results.jsonl (a line a sampler), table.md and steps.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues. The size `paper` takes
the model of --model, such as the published one of ImageNet, converted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw_timed
from ldm_jax.sweep.judge import Judge, open_judge
from ldm_jax.sweep.kept import kept
from ldm_jax.sweep.models import SMOKE_DIFFUSION, files_sha256, first_stage, trained_on
from ldm_jax.sweep.page import Column, about_seeds, best, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Domain, Study, check_given, main
from ldm_jax.train.assemble import build_rows

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, STAGE = (str(CONFIGS / f"fashion_mnist_{name}.py") for name in ("class", "autoencoder"))
PUBLISHED = str(CONFIGS / "published" / "imagenet_vq_f4.py")
# By the name of the point.
SAMPLERS = {
    "ddim": {"name": "ddim", "eta": 0.0},
    "ddim-eta-1": {"name": "ddim", "eta": 1.0},
    "ddpm": {"name": "ddpm"},
    "plms": {"name": "plms"},
    "euler": {"name": "euler"},
    "heun": {"name": "heun"},
    "dpmpp-2m": {"name": "dpmpp_2m"},
    "unipc": {"name": "unipc"},
}
SMOKE_SAMPLERS = ("ddim", "dpmpp-2m")
TRAINING = {"smoke": SMOKE_DIFFUSION, "small": {"train.steps": 1200}, "paper": {}}
SETTINGS = {
    "smoke": {"images": 8, "reference": 16, "steps": (4, 5), "guidance": 2.0},
    "small": {"images": 250, "reference": 10_000, "steps": (5, 10, 20, 50), "guidance": 1.5},
    "paper": {
        "images": 50_000,
        "reference": 50_000,
        "steps": (10, 20, 50, 100, 250),
        "guidance": 1.5,
    },
}


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each sampler and seed."""
    size, model = arguments.size, arguments.model
    check_given(arguments, "model")
    made_by = files_sha256(model) if model else stage_of(arguments).key()
    return [
        Point(
            name,
            PUBLISHED if model else MODEL,
            seed,
            TRAINING[size],
            {**SETTINGS[size], "sampler": SAMPLERS[name], "model": made_by, "judge": judge},
            {"data.source.path": arguments.data},
        )
        for seed in arguments.seeds
        for name in (SMOKE_SAMPLERS if size == "smoke" else SAMPLERS)
    ]


def stage_of(arguments: argparse.Namespace) -> Point:
    """Returns the first stage that all models are trained on."""
    return first_stage("autoencoder", STAGE, arguments.size, arguments.data)


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the scores of one sampler over its steps; it goes on from what was kept."""
    config, settings = point.make_config(), point.settings
    model = arguments.model
    if not model:
        shared = Point("class", MODEL, point.seed, point.overrides, places=point.places)
        model = trained_on(stage_of(arguments), shared, folder.parents[1])
    pipeline = Pipeline.from_checkpoint(model)
    judge = open_judge(config, extractor, settings["reference"])
    over_steps = [
        kept(folder / f"{steps}.json", lambda k=steps: _score(pipeline, judge, k, settings))
        for steps in settings["steps"]
    ]
    return {"scores": over_steps[-1]["scores"], "over_steps": over_steps}


def _score(pipeline: Pipeline, judge: Judge, steps: int, settings: Mapping) -> dict[str, Any]:
    images, seconds = draw_timed(
        pipeline,
        settings["images"],
        steps=steps,
        sampler=dict(settings["sampler"]),
        guidance_scale=settings["guidance"],
    )
    levels = make_levels(pipeline.task.schedule, steps, pipeline.config.sample.spacing)
    calls = len(build_rows(settings["sampler"], levels, pipeline.task))
    found = {"steps": steps, "calls": calls, "images_per_second": len(images) / seconds}
    return {**found, "scores": judge.scores(images)}


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("samplers", rows, ("judge", "images", "steps", "model", "guidance"))
    first = next(iter(groups.values()))[0]
    settings, metric = first["settings"], next(iter(first["scores"]))
    columns = {
        f"{steps} steps": Column(lambda row, k=k: row["over_steps"][k]["scores"][metric])
        for k, steps in enumerate(settings["steps"])
    }
    columns["images/s, most steps"] = Column(
        lambda row: row["over_steps"][-1]["images_per_second"], "{:.1f}"
    )
    by_calls = _curves(groups, metric, lambda at: at["calls"])
    by_time = _curves(groups, metric, lambda at: 1 / at["images_per_second"])
    panels = [
        Panel("calls of the network", metric, by_calls, log_x=True, log_y=True),
        Panel("seconds an image", metric, by_time, log_x=True, log_y=True),
    ]
    save_plot(out / "steps.png", panels)
    few, many = (_ranked(groups, metric, k) for k in (0, -1))
    lines = [
        *make_table(groups, columns),
        "",
        f"The {metric}, lower is better, of {settings['images']:,} images of all classes in turn "
        f"against {settings['reference']:,} real ones; guidance {settings['guidance']:g}, averaged "
        "weights. heun asks the network twice in a step, but for the last.",
        about_seeds(groups),
        "",
        f"- Best with {settings['steps'][0]} steps: {few}; with {settings['steps'][-1]}: {many}.",
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def _ranked(groups: Mapping[str, Sequence[Row]], metric: str, k: int) -> str:
    at = {
        name: [{"scores": row["over_steps"][k]["scores"]} for row in group]
        for name, group in groups.items()
    }
    return best(at, metric)


def _curves(
    groups: Mapping[str, Sequence[Row]], metric: str, x: Any
) -> dict[str, list[tuple[float, list[float]]]]:
    """Returns, by name, (mean of x over seeds, scores over seeds) of every number of steps."""
    curves = {}
    for name, group in groups.items():
        ways = list(zip(*(row["over_steps"] for row in group), strict=True))
        curves[name] = [
            (
                mean_of([x(at) for at in way]).value,
                [at["scores"][metric] for at in way],
            )
            for way in ways
        ]
    return curves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    parser.add_argument("--model", help="for `paper`: a trained or converted model")


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
