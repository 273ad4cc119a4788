"""Inpainting of pixels and of latents by the same network: images a second, trained and drawn.

python experiments/inpainting_cost/run.py --size small --out experiments/inpainting_cost
Speed does not follow from weights, so nothing is learned to its end. The data of `smoke` and
`small` are the built-in shapes. Writes results.jsonl (a line a model), table.md and speed.png into
--out, and fills the page there, if there is one; prints JSON last.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw_timed
from ldm_jax.sweep.models import SMOKE, trained
from ldm_jax.sweep.page import Column, about_seeds, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Study, check_given, main
from ldm_jax.train.hooks import METRICS_FILE
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = str(Path(__file__).parent / "shapes.py")
STAGE = str(CONFIGS / "shapes_autoencoder.py")
PUBLISHED = str(CONFIGS / "published" / "inpainting.py")
# By the name of the point, the argument of its configuration; the pixels are the first.
SHAPES = {"LDM-1": "pixels", "LDM-4": "latents"}
PAPER = {
    "LDM-1": "none",
    "LDM-4-kl": "kl_f4",
    "LDM-4-vq": "vq_f4",
    "LDM-4-vq-noattn": "vq_f4_noattn",
}
STEPS = {"smoke": 4, "small": 40, "paper": 200}  # of training; the first window is not counted
SETTINGS = {
    "smoke": {"images": 4, "sampler_steps": 2},
    "small": {"images": 64, "sampler_steps": 20},
    "paper": {"images": 64, "sampler_steps": 50},
}
TRAINING, SAMPLING = "trained images/s", "drawn images/s"
TABLE_6 = 2.9  # its least ratio of images a second, 0.32 to 0.11; of hours an epoch it is 2.7


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each model and seed."""
    size = arguments.size
    check_given(arguments, "first_stages")
    of_paper = size == "paper"
    overrides: dict[str, Any] = {"train.steps": STEPS[size], "train.warmup_steps": 1}
    if size == "smoke":
        overrides |= {"train.batch_size": 4, "task.first_stage.scale_images": 16}
        overrides |= {"task.model.channels": 16, "task.model.num_head_channels": 16}
        overrides["train.log_every"] = 2
        overrides |= {"sample.per_device_batch": 2}
    if of_paper:
        overrides["train.log_every"] = 20
    return [
        Point(
            name,
            f"{PUBLISHED if of_paper else CONFIG}:{argument}",
            seed,
            overrides,
            SETTINGS[size],
            {"data.source.path": arguments.data} if of_paper else {},
        )
        for seed in arguments.seeds
        for name, argument in (PAPER if of_paper else SHAPES).items()
    ]


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Any
) -> dict[str, Any]:
    """Returns images a second of training, first stage included, and of sampling."""
    del extractor
    config, settings = point.make_config(), point.settings
    if config.task.first_stage.model.name != "identity":
        config.task.first_stage.workdir = str(_first_stage(point, arguments, folder.parents[1]))
    train(config, folder / "model")
    rows = [json.loads(x) for x in (folder / "model" / METRICS_FILE).read_text().splitlines()]
    pipeline = Pipeline.from_checkpoint(folder / "model")
    edge, channels = config.data.image_size, config.data.get("channels") or 3
    mask = np.zeros((edge, edge), bool)
    mask[edge // 4 : 3 * edge // 4, edge // 4 : 3 * edge // 4] = True
    images, seconds = draw_timed(
        pipeline,
        settings["images"],
        steps=settings["sampler_steps"],
        image=np.full((edge, edge, channels), 128, np.uint8),
        mask=mask,
    )
    return {
        "scores": {
            TRAINING: float(np.median([row["images_per_second"] for row in rows[1:]])),
            SAMPLING: len(images) / seconds,
        },
        "parameters": sum(x.size for x in jax.tree.leaves(pipeline.weights[0]["unet"])),
    }


def _first_stage(point: Point, arguments: argparse.Namespace, workdir: Path) -> Path:
    if arguments.first_stages:
        return Path(arguments.first_stages) / PAPER[point.name]
    return trained(Point("shapes_autoencoder-fast", STAGE, 0, SMOKE), workdir)


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("inpainting_cost", rows, ("images", "sampler_steps"))
    settings = next(iter(groups.values()))[0]["settings"]
    pixels = {x: _mean(groups["LDM-1"], x) for x in (TRAINING, SAMPLING)}
    columns = {
        "parameters": Column(lambda row: row["parameters"] / 1e6, "{:.2f} M"),
        TRAINING: Column.of(TRAINING, "{:.2f}"),
        SAMPLING: Column.of(SAMPLING, "{:.2f}"),
        **{
            f"{x.partition(' ')[0]}, × LDM-1": Column(lambda row, x=x: row["scores"][x] / pixels[x])
            for x in (TRAINING, SAMPLING)
        },
    }
    curves = {
        name: [(_mean(group, TRAINING), [row["scores"][SAMPLING] for row in group])]
        for name, group in groups.items()
    }
    save_plot(out / "speed.png", [Panel(TRAINING, SAMPLING, curves, log_x=True, log_y=True)])
    ratios = [
        _mean(group, x) / pixels[x]
        for name, group in groups.items()
        if name != "LDM-1"
        for x in (TRAINING, SAMPLING)
    ]
    lines = [
        *make_table(groups, columns),
        "",
        f"Training with the first stage's encoder, sampling of {settings['images']} images with "
        f"{settings['sampler_steps']} steps and its decoder; compilation is not counted.",
        about_seeds(groups),
        "",
        f"- Latents are at least {min(ratios):.1f} × as fast as pixels; in images a second, the "
        f"paper's Table 6 has at least {TABLE_6} ×.",
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def _mean(group: Sequence[Row], score: str) -> float:
    return mean_of([row["scores"][score] for row in group]).value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    parser.add_argument(
        "--first_stages", help="for `paper`: folder of trained ones: kl_f4, vq_f4, vq_f4_noattn"
    )


STUDY = Study(
    Path(__file__).parent,
    __doc__,
    make_points,
    measure_point,
    write_report,
    add_arguments=add_arguments,
)

if __name__ == "__main__":
    main(STUDY)
