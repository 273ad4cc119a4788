"""The switch: a condition by concatenation or by cross-attention, for a map and for a class.

python experiments/conditioning/run.py --size small --out experiments/conditioning
The built-in shapes need no data. Writes results.jsonl (a line a pair), table.md and scores.png into
--out, and fills the page there, if there is one; prints JSON last. The same command again
continues.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shapes import CONDITIONERS

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import COLOURS, SHAPES, Shapes
from ldm_jax.evaluation.shapes_layout import label_map, map_overlap
from ldm_jax.evaluation.shapes_score import read_objects
from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.kept import kept
from ldm_jax.sweep.models import SMOKE, SMOKE_DIFFUSION, trained
from ldm_jax.sweep.page import Column, about_seeds, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Study, main
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = str(Path(__file__).parent / "shapes.py")
STAGE = str(CONFIGS / "shapes_autoencoder.py")
HELD_OUT_SEED = 10_000  # scenes that no training has seen
SETTINGS = {"smoke": {"images": 4, "at": (1, 2)}, "small": {"images": 256, "at": (200, 400, 800)}}
FOLLOWED = "condition followed"


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each pair and seed."""
    size = arguments.size
    if size == "paper":
        raise UserError(
            "--size=paper: the paper has no such table. Legal: smoke, small, and training "
            "configs/published/semantic_256.py with another conditioner."
        )
    return [
        Point(
            name,
            f"{CONFIG}:{name}",
            seed,
            SMOKE_DIFFUSION if size == "smoke" else {},
            {**SETTINGS[size], "first_stage": first_stage(arguments).key()},
        )
        for seed in arguments.seeds
        for name in CONDITIONERS
    ]


def first_stage(arguments: argparse.Namespace) -> Point:
    """Returns the first stage that all models are trained on."""
    return Point("shapes_autoencoder", STAGE, 0, SMOKE if arguments.size == "smoke" else {})


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Any
) -> dict[str, Any]:
    """Returns how well a condition is followed after some steps of training."""
    del extractor
    config, settings = point.make_config(), point.settings
    stage = trained(first_stage(arguments), folder.parents[1])
    config.task.first_stage.workdir = str(stage)
    config.train.schedule = {"name": "constant"}  # what is scored on the way is no worse for it

    def score(steps: int) -> dict[str, Any]:
        config.train.steps = steps
        train(config, folder / "model")
        pipeline = Pipeline.from_checkpoint(folder / "model")
        if pipeline.step != steps:
            raise UserError(
                f"{folder}: is at step {pipeline.step}, and {steps} has no score. Legal: remove it."
            )
        return {"steps": steps, "scores": {FOLLOWED: _score(pipeline, settings["images"])}}

    over_training = [
        kept(folder / f"score_{steps}.json", lambda k=steps: score(k)) for steps in settings["at"]
    ]
    return {"scores": over_training[-1]["scores"], "over_training": over_training}


def _score(pipeline: Pipeline, count: int) -> float:
    """Returns the overlap of drawn and asked maps, or the share of images of the asked class."""
    told = pipeline.config.data.source.to_dict()
    del told["name"]
    source = Shapes(**{**told, "seed": HELD_OUT_SEED, "num_examples": count})
    scenes = [source[k] for k in range(count)]
    entry = "class" if "class" in pipeline.task.inputs else "segmentation"
    asked = np.array([scene[entry] for scene in scenes])
    if entry == "class":
        images = pipeline(classes=asked.tolist(), seed=HELD_OUT_SEED)
        return float(np.mean([_shows(*pair) for pair in zip(images, asked, strict=True)]))
    images = pipeline(conditions={entry: asked}, seed=HELD_OUT_SEED)
    return map_overlap(np.stack([label_map(image) for image in images]), asked)


def _shows(image: np.ndarray, label: int) -> bool:
    seen = read_objects(image)
    colour, shape = list(COLOURS)[label % len(COLOURS)], SHAPES[label // len(COLOURS)]
    return len(seen) == 1 and (seen[0].colour, seen[0].shape) == (colour, shape)


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("conditioning", rows, ("images", "first_stage"))
    settings = next(iter(groups.values()))[0]["settings"]
    columns = {
        f"{steps} steps": Column(lambda row, k=k: _at(row, k), "{:.3f}")
        for k, steps in enumerate(settings["at"])
    }
    curves = {
        name: [(steps, [_at(row, k) for row in group]) for k, steps in enumerate(settings["at"])]
        for name, group in groups.items()
    }
    save_plot(out / "scores.png", [Panel("training steps", FOLLOWED, curves)])
    last = {name: mean_of([_at(row, -1) for row in group]).value for name, group in groups.items()}
    lines = [
        *make_table(groups, columns),
        "",
        f"Of {settings['images']} scenes that no training has seen: for maps the mean overlap of "
        "drawn and asked classes other than the ground, for classes (all of which training has "
        "seen) the share of images with the asked colour and shape, read off the pixels. No "
        "guidance, averaged weights.",
        about_seeds(groups),
        "",
        *(f"- A {what} is followed better {_better(last, what)}." for what in ("map", "class")),
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def _at(row: Mapping[str, Any], k: int) -> float:
    return float(row["over_training"][k]["scores"][FOLLOWED])


def _better(last: Mapping[str, float], what: str) -> str:
    concat, attention = last[f"{what}-concat"], last[f"{what}-attention"]
    if concat == attention:
        return f"by neither ({concat:.3f} both ways)"
    words = "by concatenation" if concat > attention else "through cross-attention"
    return f"{words} ({max(concat, attention):.3f} against {min(concat, attention):.3f})"


STUDY = Study(Path(__file__).parent, __doc__, make_points, measure_point, write_report)

if __name__ == "__main__":
    main(STUDY)
