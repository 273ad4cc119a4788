"""KL or VQ: what first stages keep of images, and what diffusion models make of their latents.

python experiments/kl_or_vq/run.py --size small --data TFDS_DIR --out experiments/kl_or_vq
Writes results.jsonl (a line a first stage), table.md and quality.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pairs import PUBLISHED, SMALL

from ldm_jax.evaluation.reconstruction import psnr, ssim
from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw
from ldm_jax.sweep.judge import open_judge, real_images
from ldm_jax.sweep.models import SMOKE, SMOKE_DIFFUSION, files_sha256, trained
from ldm_jax.sweep.page import Column, about_seeds, best, comparable, made_on, make_table
from ldm_jax.sweep.plots import Panel, mean_of, save_plot
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row
from ldm_jax.sweep.study import Domain, Study, check_given, main
from ldm_jax.train.loop import train

PAIRS = str(Path(__file__).parent / "pairs.py")
MODEL = str(Path(__file__).parents[2] / "configs" / "fashion_mnist_class.py")
STAGES = {"smoke": ("kl", "vq-256"), "small": tuple(SMALL), "paper": tuple(PUBLISHED)}
TRAINING = {
    "smoke": SMOKE_DIFFUSION,
    "small": {"train.steps": 600, "train.batch_size": 32, "train.sample_every": 600},
    "paper": {},
}
SETTINGS = {
    "smoke": {"images": 8, "reference": 16, "steps": 3},
    "small": {"images": 250, "reference": 10_000, "steps": 50},
    "paper": {"images": 5_000, "reference": 25_000, "steps": 200},
}


def make_points(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns a point for each first stage and seed."""
    size = arguments.size
    check_given(arguments, "first_stages")
    return [
        Point(
            name,
            f"{PAIRS}:model-{name}",
            seed,
            TRAINING[size],
            {**SETTINGS[size], "first_stage": _key(name, arguments), "judge": judge},
            {"data.source.path": arguments.data},
        )
        for seed in arguments.seeds
        for name in STAGES[size]
    ]


def first_stage(name: str, arguments: argparse.Namespace) -> Point:
    """Returns a first stage that is trained here; one serves all seeds."""
    overrides = {"smoke": SMOKE, "small": {"train.steps": 1000}, "paper": {}}[arguments.size]
    places = {"data.source.path": arguments.data}
    return Point(f"autoencoder-{name}", f"{PAIRS}:{name}", 0, overrides, places=places)


def _key(name: str, arguments: argparse.Namespace) -> str:
    if arguments.first_stages:
        return files_sha256(Path(arguments.first_stages) / name)
    return first_stage(name, arguments).key()


def measure_point(
    point: Point, folder: Path, *, arguments: argparse.Namespace, extractor: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the scores of reconstructions and of samples."""
    config, settings = point.make_config(), point.settings
    if arguments.first_stages:
        stage = Path(arguments.first_stages) / point.name
    else:
        stage = trained(first_stage(point.name, arguments), folder.parents[1])
    config.task.first_stage.workdir = str(stage)
    config.sample.grid_images = 0
    train(config, folder / "model")
    pipeline = Pipeline.from_checkpoint(folder / "model")
    judge = open_judge(config, extractor, settings["reference"])
    images = real_images(config, settings["reference"], settings["images"])["image"]
    found = pipeline.reconstruct(images)
    samples = draw(pipeline, settings["images"], steps=settings["steps"], guidance_scale=1.0)
    return {
        "scores": judge.scores(samples),
        "reconstructed": judge.scores(found),
        "real": judge.scores(images),
        "psnr": float(np.mean(psnr(found, images))),
        "ssim": float(np.mean(ssim(found, images))),
    }


def write_report(rows: Sequence[Row], out: Path) -> str:
    """Returns the table and what it says, as Markdown; writes the plot into `out`."""
    groups = comparable("kl_or_vq", rows, ("judge", "images", "steps"))
    first = next(iter(groups.values()))[0]
    settings, metric = first["settings"], next(iter(first["scores"]))
    columns = {
        "PSNR, dB": Column(lambda row: row["psnr"]),
        "SSIM": Column(lambda row: row["ssim"], "{:.3f}"),
        "real": Column(lambda row: row["real"][metric]),
        "reconstructed": Column(lambda row: row["reconstructed"][metric]),
        "samples": Column.of(metric, "{:.2f}"),
    }
    curves = {
        name: [
            (
                mean_of([row["reconstructed"][metric] for row in group]).value,
                [row["scores"][metric] for row in group],
            )
        ]
        for name, group in groups.items()
    }
    save_plot(out / "quality.png", [Panel(f"reconstructions: {metric}", "samples", curves)])
    kept = [{"scores": {"psnr": row["psnr"]}, "name": n} for n, g in groups.items() for row in g]
    sharpest = best({name: [x for x in kept if x["name"] == name] for name in groups}, "psnr", max)
    lines = [
        *make_table(groups, columns),
        "",
        f"Numbers of `real`, `reconstructed` and `samples` are the {metric}, lower is better, of "
        f"{settings['images']:,} images against {settings['reference']:,} others; DDIM with "
        f"{settings['steps']} steps, eta 0, no guidance, averaged weights.",
        about_seeds(groups),
        "",
        f"- Most of an image is kept by {sharpest}; samples are best on {best(groups, metric)}.",
        "",
        made_on(groups),
    ]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    parser.add_argument(
        "--first_stages", help=f"for `paper`: folder of trained ones: {', '.join(PUBLISHED)}"
    )


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
