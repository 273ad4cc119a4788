"""What a latent cache is worth: the same diffusion training with and without it, steps per second.

python experiments/latent_cache/run.py [--data DIR] --workdir runs/latent_cache
DIR is a folder of captioned images (emoji at 64×64); without it, built-in shapes at 32×32.
Prints JSON last, and writes it to --out.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.train.encode import encode
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"


def main() -> None:
    """Trains a first stage, encodes, then trains in turns from images and from the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder of images with metadata.jsonl")
    parser.add_argument("--workdir", default="runs/latent_cache", help="new")
    parser.add_argument("--out", help="JSON file of the results")
    parser.add_argument("--steps", type=int, default=60, help="per run, the first ten not timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.repeats = 12, 1
    workdir = Path(arguments.workdir)

    first_stage, config = make_configs(arguments)
    train(first_stage, workdir / "autoencoder")
    config.task.first_stage.workdir = str(workdir / "autoencoder")
    with config.unlocked():
        config.data.flip_probability = 0.5  # both orientations are in the cache
    encoded = encode(config, workdir / "cache")

    rates: dict[str, list[float]] = {"images": [], "cache": []}
    losses: dict[str, list[float]] = {"images": [], "cache": []}
    for repeat in range(arguments.repeats):
        for name in rates:  # in turns, so that a busy machine is as busy for both
            run = config.copy_and_resolve_references()
            with run.unlocked(), run.ignore_type():
                run.data.latent_cache = str(workdir / "cache") if name == "cache" else None
            found = steps_per_second(run, workdir / f"{name}_{repeat}")
            rates[name].append(found[0])
            losses[name].append(found[1])
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    results = {
        "steps_per_second_from_images": round(medians["images"], 3),
        "steps_per_second_from_cache": round(medians["cache"], 3),
        "ratio": round(medians["cache"] / medians["images"], 3),
        "repeats": {name: [round(x, 3) for x in values] for name, values in rates.items()},
        "last_loss": {name: values[-1] for name, values in losses.items()},
        "batch_size": config.train.batch_size,
        "image_size": config.data.image_size,
        "encoding_images_per_second": round(encoded.images / encoded.seconds, 1),
        "cache_bytes": encoded.num_bytes,
        "examples": encoded.images,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
    }
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def make_configs(arguments: argparse.Namespace):
    """Returns the first stage's configuration, a few steps of it, and the diffusion model's."""
    name = "emoji" if arguments.data else "shapes"
    first_stage = load_config(str(CONFIGS / f"{name}_autoencoder.py"))
    config = load_config(str(CONFIGS / f"{name}_text.py"))
    for settings, steps in ((first_stage, 4), (config, arguments.steps)):
        if arguments.data:
            settings.data.source.path = arguments.data
        else:
            settings.data.source.num_examples = 512 if arguments.smoke else 8192
        settings.train.update(steps=steps, warmup_steps=1, checkpoint_every=steps, log_every=1)
        settings.sample.grid_images = 0
    config.task.first_stage.scale_images = 256
    if arguments.smoke:
        first_stage.train.batch_size = config.train.batch_size = 8
    return first_stage, config


def steps_per_second(config, workdir: Path) -> tuple[float, float]:
    """Trains; returns the rate of the steps after the tenth, and the last loss."""
    start = time.monotonic()
    train(config, workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(config.train.batch_size / row["images_per_second"] for row in rows[10:])
    assert seconds < time.monotonic() - start
    return len(rows[10:]) / seconds, rows[-1]["loss"]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
