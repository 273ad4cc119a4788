"""How large latents should be: quality over their standard deviation under one schedule of noise.

python experiments/latent_scale/run.py --size small --data TFDS_DIR --out experiments/latent_scale
A schedule of noise fits latents of one size: larger ones keep their signal for longer. Writes
results.jsonl (a line a deviation), table.md and quality.png into --out, and fills the page there,
if there is one; prints JSON last. The same command again continues.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw
from ldm_jax.sweep.judge import open_judge
from ldm_jax.sweep.kept import kept
from ldm_jax.sweep.models import SMOKE_DIFFUSION, files_sha256, first_stage, trained
from ldm_jax.sweep.page import Column, about_seeds, best, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Domain, Study, check_given, main
from ldm_jax.train.convert import single_factor
from ldm_jax.train.exchange import open_model
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, STAGE = (str(CONFIGS / f"fashion_mnist_{name}.py") for name in ("class", "autoencoder"))
PUBLISHED = str(CONFIGS / "published" / "lsun_churches.py")
# The paper's appendix D.1 sets 1, the default, beside what a first stage happens to give.
DEVIATIONS = {
    "smoke": (1.0, 4.0),
    "small": (0.25, 0.5, 1.0, 2.0, 4.0),
    "paper": (0.25, 0.5, 1.0, 2.0, 4.0),
}
TRAINING = {
    "smoke": SMOKE_DIFFUSION,
    "small": {"train.steps": 600, "train.batch_size": 32, "train.sample_every": 600},
    "paper": {},
}
SETTINGS = {
    "smoke": {"images": 8, "reference": 16, "steps": 3},
    "small": {"images": 250, "reference": 10_000, "steps": 50},
    "paper": {"images": 50_000, "reference": 50_000, "steps": 200},
}


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each deviation and seed."""
    size = arguments.size
    check_given(arguments, "first_stage")
    given = arguments.first_stage
    stage = files_sha256(given) if given else stage_of(arguments).key()
    return [
        Point(
            f"std-{deviation:g}",
            PUBLISHED if size == "paper" else MODEL,
            seed,
            TRAINING[size],
            {**SETTINGS[size], "deviation": deviation, "first_stage": stage, "judge": judge},
            {"data.source.path": arguments.data},
        )
        for seed in arguments.seeds
        for deviation in DEVIATIONS[size]
    ]


def stage_of(arguments: argparse.Namespace) -> Point:
    """Returns the first stage that all models are trained on."""
    return first_stage("autoencoder", STAGE, arguments.size, arguments.data)


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the scores of a model whose latents have one deviation, and what it is multiplied by.

    What makes it 1 is measured by a run of one step.
    """
    config, settings = point.make_config(), point.settings
    stage = arguments.first_stage or trained(stage_of(arguments), folder.parents[1])
    config.task.first_stage.workdir = str(stage)
    config.sample.grid_images = 0

    def measure() -> dict[str, float]:
        once = config.copy_and_resolve_references()
        once.task.first_stage.scale_factor = "std"
        once.train.update(steps=1, warmup_steps=0)
        train(once, folder / "one_step")
        with open_model(folder / "one_step") as model:
            assert model.latent_scale is not None
            factor = single_factor(model.latent_scale)
        assert factor is not None
        return {"factor": factor}

    unit = kept(folder / "unit.json", measure)["factor"]
    with config.ignore_type():  # a name such as 'auto' becomes a number
        config.task.first_stage.scale_factor = unit * settings["deviation"]
    train(config, folder / "model")
    pipeline = Pipeline.from_checkpoint(folder / "model")
    judge = open_judge(config, extractor, settings["reference"])
    images = draw(pipeline, settings["images"], steps=settings["steps"], guidance_scale=1.0)
    found = judge.scores(images)
    return {"scores": found, "factor": unit * settings["deviation"], "raw_deviation": 1 / unit}


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("latent_scale", rows, ("judge", "images", "steps", "first_stage"))
    groups = dict(sorted(groups.items(), key=lambda item: item[1][0]["settings"]["deviation"]))
    first = next(iter(groups.values()))[0]
    settings, metric = first["settings"], next(iter(first["scores"]))
    columns = {
        "factor": Column(lambda row: row["factor"], "{:.3g}"),
        metric: Column.of(metric, "{:.2f}"),
    }
    curve = [
        (group[0]["settings"]["deviation"], [row["scores"][metric] for row in group])
        for group in groups.values()
    ]
    label = "standard deviation of the latents"
    save_plot(out / "quality.png", [Panel(label, metric, {"DDIM": curve}, log_x=True, log_y=True)])
    least = best(groups, metric)
    lines = [
        *make_table(groups, columns),
        "",
        f"The {metric}, lower is better, of {settings['images']:,} images against "
        f"{settings['reference']:,} real ones; DDIM with {settings['steps']} steps, eta 0, no "
        "guidance, averaged weights. `factor` multiplies latents whose own deviation is "
        f"{first['raw_deviation']:.3g}.",
        about_seeds(groups),
        "",
        f"- Best is {least}"
        + (
            ", what `scale_factor='std'` gives."
            if "std-1" in least.split(" and ")
            else ", and not 1."
        ),
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    parser.add_argument("--first_stage", help="for `paper`: a trained or converted KL f = 8")


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
