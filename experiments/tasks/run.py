"""Every task of the paper on shapes: train, sample what was asked for, read off what was drawn.

python experiments/tasks/run.py --workdir runs/tasks
Trains the first stage, then each task of configs/shapes_tasks.py in turn, draws 512 images and
scores them beside three controls. The same command again goes on where it was stopped. Writes
results.json, table.md and a grid per task into --out; prints JSON last.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
import embed
from examples import Examples
from scores import SCORES

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import Shapes
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.hooks import image_grid, save_png
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
COLUMNS = (
    *("score", "standard_error", "bar", "reached", "real", "shuffled", "trivial"),
    *("beats_controls", "steps", "minutes"),
)


def main() -> None:
    """Trains what is missing, scores, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="runs/tasks")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--tasks", nargs="*", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--first_stage", help="a trained shapes_autoencoder, to save two minutes")
    parser.add_argument("--num_images", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    workdir, out = Path(arguments.workdir), Path(arguments.out or arguments.workdir)
    if (os.cpu_count() or 1) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)
    first_stage = arguments.first_stage or str(workdir / "autoencoder")
    if arguments.first_stage is None:
        train(prepared(load_config(str(CONFIGS / "shapes_autoencoder.py")), arguments), first_stage)
    written = out / "results.json"
    results = json.loads(written.read_text()) if written.is_file() else {}
    for task in arguments.tasks:
        config = prepared(load_config(f"{CONFIGS / 'shapes_tasks.py'}:{task}"), arguments)
        config.task.first_stage.workdir = first_stage
        write_embeddings(config, workdir / "embeddings")
        results[task] = run_task(task, config, workdir / task, out, arguments)
        out.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(results, indent=1) + "\n")
        (out / "table.md").write_text(make_table(results))
    print(json.dumps(results))


def prepared(config, arguments):
    """Returns the configuration with the seed of this call; with --smoke almost nothing to do."""
    config.seed = arguments.seed
    config.sample.grid_images = 0
    if arguments.smoke:
        config.train.update(steps=4, warmup_steps=1, checkpoint_every=4, batch_size=16)
        config.sample.update(steps=2, per_device_batch=4)
        if "first_stage" in config.task:
            config.task.first_stage.scale_images = 64
    return config


def write_embeddings(config, folder: Path) -> None:
    """Writes the embeddings that the configuration reads, if any, and tells it where they are."""
    for entry in (config.data.get("derive") or {}).values():
        if "embeddings" in entry:
            source = Shapes(**{k: v for k, v in config.data.source.items() if k != "name"})
            entry.embeddings = str(embed.write(folder / f"train_{len(source)}.npy", source))


def run_task(task: str, config, workdir: Path, out: Path, arguments) -> dict:
    """Returns the scores of one task, with its controls."""
    start = time.monotonic()
    train(config, workdir)
    trained = time.monotonic()
    count = 8 if arguments.smoke else arguments.num_images
    examples = Examples.load(config, count, embed.HELD_OUT_SEED)
    score = SCORES[task]
    with tqdm(total=count, unit="image", desc=task) as bar:
        pipeline = Pipeline.from_checkpoint(workdir)
        images = score.draw(pipeline, examples, arguments.seed, bar.update)
    shown = pipeline.reconstruct(examples.image)
    examples = dataclasses.replace(examples, reconstruction=shown)
    shown = np.stack([examples.image[:24], images[:24]], axis=1).reshape(-1, *images.shape[1:])
    save_png(out / "grids" / f"{task}.png", image_grid(shown, 12))
    found = score.judge(images, examples)
    return {
        **found,
        "measure": score.measure,
        "bar": score.bar[0],
        "reached": score.bar[1](found),
        "images": count,
        "steps": config.train.steps,
        "seed": arguments.seed,
        "minutes": round((trained - start) / 60, 1),
    }


def make_table(results: dict) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| task | measure | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for task, found in results.items():
        cells = [
            f"{found[name]:.3f}" if isinstance(found[name], float) else str(found[name])
            for name in COLUMNS
        ]
        lines.append(f"| {task} | {found['measure']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
