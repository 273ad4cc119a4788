"""How much to guide: quality and diversity over the scale of classifier-free guidance.

python experiments/guidance/run.py --size small --data TFDS_DIR --out experiments/guidance
Writes results.jsonl (a line a scale), table.md and guidance.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues. The size `paper` takes
the model of --model, such as the published one of ImageNet, converted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import classes_of, draw
from ldm_jax.sweep.judge import open_judge
from ldm_jax.sweep.models import SMOKE_DIFFUSION, files_sha256, first_stage, trained_on
from ldm_jax.sweep.page import Column, about_seeds, best, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Domain, Study, check_given, main

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, STAGE = (str(CONFIGS / f"fashion_mnist_{name}.py") for name in ("class", "autoencoder"))
PUBLISHED = str(CONFIGS / "published" / "imagenet_vq_f4.py")
SCALES = {
    "smoke": (1.0, 2.0),
    "small": (1.0, 1.5, 2.0, 3.0, 5.0, 8.0),
    "paper": (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
}
TRAINING = {"smoke": SMOKE_DIFFUSION, "small": {"train.steps": 1200}, "paper": {}}
SETTINGS = {
    "smoke": {"images": 8, "reference": 16, "steps": 2},
    "small": {"images": 500, "reference": 10_000, "steps": 50},
    "paper": {"images": 50_000, "reference": 50_000, "steps": 250},
}


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each scale and seed."""
    size, model = arguments.size, arguments.model
    check_given(arguments, "model")
    made_by = files_sha256(model) if model else stage_of(arguments).key()
    return [
        Point(
            f"scale-{scale:g}",
            PUBLISHED if model else MODEL,
            seed,
            TRAINING[size],
            {**SETTINGS[size], "scale": scale, "model": made_by, "judge": judge},
            {"data.source.path": arguments.data},
        )
        for seed in arguments.seeds
        for scale in SCALES[size]
    ]


def stage_of(arguments: argparse.Namespace) -> Point:
    """Returns the first stage that all models are trained on."""
    return first_stage("autoencoder", STAGE, arguments.size, arguments.data)


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the scores of images that are drawn at one scale."""
    config, settings = point.make_config(), point.settings
    model = arguments.model
    if not model:
        shared = Point("class", MODEL, point.seed, point.overrides, places=point.places)
        model = trained_on(stage_of(arguments), shared, folder.parents[1])
    judge = open_judge(config, extractor, settings["reference"])
    pipeline, count = Pipeline.from_checkpoint(model), settings["images"]
    classes = classes_of(pipeline, count)
    if classes is None:
        raise UserError(f"--model={model}: reads no classes. Legal: a class-conditional model.")
    images = draw(pipeline, count, steps=settings["steps"], guidance_scale=settings["scale"])
    scores = {**judge.scores(images), **judge.spread(images)}
    if extractor["name"] == "classifier":  # Inception's classes are not those of the data
        scores["class as asked"] = judge.follows(images, classes)
    return {"scores": scores}


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("guidance", rows, ("judge", "images", "steps", "model"))
    groups = dict(sorted(groups.items(), key=lambda item: item[1][0]["settings"]["scale"]))
    first = next(iter(groups.values()))[0]
    settings = first["settings"]
    distance, _, *shares = first["scores"]
    precision, recall = shares[:2]

    def curves(*names: str) -> dict[str, list[tuple[float, list[float]]]]:
        return {
            name: [
                (group[0]["settings"]["scale"], [row["scores"][name] for row in group])
                for group in groups.values()
            ]
            for name in names
        }

    panels = [
        Panel("guidance scale", "distance", curves(distance), log_x=True),
        Panel("guidance scale", "share", curves(*shares), log_x=True),
    ]
    save_plot(out / "guidance.png", panels)
    least = best(groups, distance)
    inside = not {next(iter(groups)), list(groups)[-1]} & set(least.split(" and "))
    lines = [
        *make_table(groups, {name: Column.of(name) for name in first["scores"]}),
        "",
        f"{settings['images']:,} images of all classes in turn against {settings['reference']:,} "
        f"real ones; DDIM with {settings['steps']} steps, eta 0, averaged weights.",
        about_seeds(groups),
        "",
        f"- The distance is least at {least}, "
        + ("inside the range, as in the paper." if inside else "an end of the range."),
        f"- Precision is highest at {best(groups, precision, max)}, recall at "
        f"{best(groups, recall, max)}. In the paper's Table 3 a larger scale has more of the first "
        "and less of the second.",
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


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
