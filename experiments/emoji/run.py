"""Text-to-image on 64×64 emoji, judged on captions that were held out of training.

python experiments/emoji/run.py --data DIR --workdir runs/emoji
Holds 64 combinations of subject and skin tone and a few of thing and colour out of everything,
trains first stage, diffusion model and a judge on the rest, draws eight images a caption and
asks the judge. Writes results.json and grids into --out; prints JSON last. The same command again
goes on where it was stopped.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from judge import train_judge
from split import Row, hold_out, read_rows, write_folder

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.folder import Folder
from ldm_jax.data.pipeline import load_examples
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.hooks import image_grid, save_png
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"
GRID = 64  # captions in a grid


def main() -> None:
    """Trains, draws, judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of emoji with metadata.jsonl")
    parser.add_argument("--workdir", default="runs/emoji")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--size", choices=("full", "small"), default="full")
    parser.add_argument("--per_caption", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    workdir, out = Path(arguments.workdir), Path(arguments.out or arguments.workdir)
    out.mkdir(parents=True, exist_ok=True)
    if arguments.size == "small" and (os.cpu_count() or 1) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)
    rows = read_rows(Path(arguments.data))
    seen, tones, colours = hold_out(rows, Path(arguments.data), GRID)
    folder = workdir / "data"
    write_folder(folder, Path(arguments.data), seen)

    start = time.monotonic()
    seconds = {}
    for stage, name in (("autoencoder", "emoji_autoencoder"), ("diffusion", "emoji_text")):
        config = prepared(load_config(f"{CONFIGS / name}.py:{arguments.size}"), arguments)
        config.data.source.path = str(folder)
        if stage == "diffusion":
            config.task.first_stage.workdir = str(workdir / "autoencoder")
        train(config, workdir / stage)
        seconds[stage] = round(time.monotonic() - start)
        start = time.monotonic()

    categories = sorted({row.category for row in rows})
    judge = train_judge(pixels(folder), seen, categories, 8 if arguments.smoke else 1500)
    seconds["judge"], start = round(time.monotonic() - start), time.monotonic()
    pipeline = Pipeline.from_checkpoint(workdir / "diffusion")
    rng = np.random.default_rng(1)
    single = [row for row in seen if row.tone >= 0]
    familiar = [single[k] for k in rng.permutation(len(single))[:GRID]]
    count = 1 if arguments.smoke else arguments.per_caption
    results = {}
    for name, asked in (("unseen", tones), ("training", familiar)):
        asked = asked[:4] if arguments.smoke else asked
        drawn = draw(pipeline, asked, count, arguments.seed, name)
        real = folder_of(workdir / name, arguments.data, asked)
        results[name] = scores(judge, drawn, pixels(real), asked, categories)
        shown = draw(pipeline, colours, 1, arguments.seed, "colours") if name == "unseen" else None
        first = drawn[:: len(drawn) // len(asked)]
        first = first if shown is None else np.concatenate([first[: GRID - len(shown)], shown])
        save_png(out / f"{name}.png", image_grid(first, 16))
        captions = [row.text for row in asked]
        if shown is not None:
            captions = captions[: GRID - len(shown)] + [row.text for row in colours]
        (out / f"{name}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    seconds["sampling"] = round(time.monotonic() - start)
    results |= {
        "size": arguments.size,
        "device": jax.devices()[0].device_kind,
        "seconds": seconds,
        "seed": arguments.seed,
        "guidance_scale": pipeline.config.sample.guidance_scale,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def prepared(config, arguments):
    """Returns the configuration with the seed of this call; with --smoke almost nothing to do."""
    config.seed = arguments.seed
    if arguments.smoke:
        config.train.update(steps=3, warmup_steps=1, checkpoint_every=3, batch_size=8)
        config.sample.update(steps=2, grid_images=0, per_device_batch=4)
        if "first_stage" in config.task:
            config.task.first_stage.scale_images = 64
    return config


def folder_of(folder: Path, images: str, rows: list[Row]) -> Path:
    """Returns a folder of these rows, written now."""
    write_folder(folder, Path(images), rows)
    return folder


def pixels(folder: Path) -> np.ndarray:
    """Returns all images of a folder, uint8 [n, 64, 64, 3], on white."""
    source = Folder(str(folder))
    return load_examples(source, range(len(source)), image_size=64)["image"]


def draw(pipeline: Pipeline, rows: list[Row], count: int, seed: int, what: str) -> np.ndarray:
    """Returns `count` images of each caption, one caption after the other."""
    prompts = [row.text for row in rows for _ in range(count)]
    with tqdm(total=len(prompts), unit="image", desc=what) as bar:
        return pipeline(prompts, seed=seed, progress=bar.update)


def scores(judge, drawn: np.ndarray, real: np.ndarray, rows: list[Row], categories: list[str]):
    """Returns how often the judge names category and tone of the caption, beside controls.

    `shuffled` holds the images against the captions of the next row, `trivial` is the most frequent
    answer to all of them. As all captions of skin tones are people, the subject is asked for as
    well: `subject_top1` and `subject_top5` are how often the caption's own real emoji is the
    nearest to a drawing, or among the five nearest, of those of all these captions.
    """
    each = len(drawn) // len(rows)
    asked = np.array([(categories.index(row.category), row.tone) for row in rows])
    repeated = np.repeat(asked, each, axis=0)
    named, of_real = (np.stack(judge(images), axis=1) for images in (drawn, real))
    both = np.all(named == repeated, axis=1)
    _, frequent = np.unique(asked, axis=0, return_counts=True)
    error = float(np.std(both.reshape(len(rows), each).mean(axis=1)) / np.sqrt(len(rows)))
    shuffled = np.all(named == np.roll(repeated, each, axis=0), axis=1)
    controls = {
        "real": float(np.mean(np.all(of_real == asked, axis=1))),
        "shuffled": float(np.mean(shuffled)),
        "trivial": float(frequent.max() / len(asked)),
    }
    best = max(controls["shuffled"], controls["trivial"])
    return {
        "agreement": float(np.mean(both)),
        "standard_error": error,
        "category": float(np.mean(named[:, 0] == repeated[:, 0])),
        "tone": float(np.mean(named[:, 1] == repeated[:, 1])),
        **subject_scores(drawn, real),
        **controls,
        "beats_controls": bool(np.mean(both) > best + 3 * error),
        "captions": len(rows),
        "images": len(drawn),
    }


def subject_scores(drawn: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Returns the shares of drawings whose own real emoji is nearest, by pixels of 16×16."""
    a, b = (x.reshape(len(x), 16, 4, 16, 4, 3).mean(axis=(2, 4)) for x in (drawn, real))
    distance = np.stack([((b - each) ** 2).mean(axis=(1, 2, 3)) for each in a])
    own = np.repeat(np.arange(len(real)), len(drawn) // len(real))
    nearer = (distance < distance[np.arange(len(own)), own][:, None]).sum(axis=1)
    return {
        "subject_top1": float(np.mean(nearer < 1)),
        "subject_top5": float(np.mean(nearer < 5)),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
