"""From nothing to captioned images: train both stages on shapes, sample, score, print JSON.

`make quickstart` runs this. Every number comes from fixed step counts and the given seed; the
scorer (`ldm_jax.evaluation.shapes_score`) reads pixels and knows nothing of the model.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import Shapes
from ldm_jax.evaluation.shapes_score import caption_accuracy
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.loop import train

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
HELD_OUT_SEED = 1_000_003  # captions come from scenes that training never draws


def main() -> None:
    """Trains, samples, scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default=str(ROOT / "runs" / "quickstart"))
    parser.add_argument("--seed", type=int, default=0, help="of training and of the samples")
    parser.add_argument("--num_images", type=int, default=256)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    workdir, seed = Path(arguments.workdir), arguments.seed
    start = time.monotonic()
    if (os.cpu_count() or 1) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)

    def shrink(config, steps: int) -> None:
        config.seed = seed
        if arguments.smoke:
            config.train.update(steps=steps, warmup_steps=1, checkpoint_every=steps, batch_size=16)
            config.sample.update(steps=2, grid_images=4, per_device_batch=4)

    first_stage = load_config(str(CONFIGS / "shapes_autoencoder.py"))
    shrink(first_stage, 4)
    _say("1/3  first stage: an autoencoder that turns 32×32 pixels into 8×8×4 latents")
    train(first_stage, workdir / "autoencoder")
    trained_first_stage = time.monotonic()

    config = load_config(str(CONFIGS / "shapes_text.py"))
    shrink(config, 4)
    config.task.first_stage.workdir = str(workdir / "autoencoder")
    config.sample.grid_images = 0  # the captioned grid comes at the end
    if arguments.smoke:
        config.task.first_stage.scale_images = 64
    _say("2/3  latent diffusion: a U-Net that denoises latents, reading captions")
    train(config, workdir / "diffusion")
    trained_diffusion = time.monotonic()

    _say("3/3  sampling and scoring")
    count = 8 if arguments.smoke else arguments.num_images
    scores = sample_and_score(workdir, seed, count)
    end = time.monotonic()
    scores |= {
        "seed": seed,
        "first_stage_steps": first_stage.train.steps,
        "diffusion_steps": config.train.steps,
        "first_stage_seconds": round(trained_first_stage - start, 1),
        "diffusion_seconds": round(trained_diffusion - trained_first_stage, 1),
        "sampling_seconds": round(end - trained_diffusion, 1),
        "grid": str(workdir / "grid.png"),
    }
    print(json.dumps(scores))


def sample_and_score(workdir: Path, seed: int, count: int) -> dict[str, float]:
    """Returns accuracies of `count` samples, of shuffled captions, and of real images."""
    pipeline = Pipeline.from_checkpoint(workdir / "diffusion")
    scenes = Shapes(image_size=32, max_objects=1, seed=HELD_OUT_SEED, num_examples=max(count, 256))
    examples = [scenes[k] for k in range(count)]
    captions = [example["text"] for example in examples]
    with tqdm(total=count, unit="image", desc="sample") as bar:
        images = pipeline(captions, seed=seed, progress=bar.update)
    captioned_grid(images[:36], captions[:36]).save(workdir / "grid.png")

    found = caption_accuracy(images, captions)
    # Each image beside its neighbour's caption: what a model that ignores text would score.
    shuffled = caption_accuracy(images, [*captions[1:], captions[0]])
    real = caption_accuracy(np.stack([example["image"] for example in examples]), captions)
    return {
        "caption_accuracy": found["overall"],
        "colour": found["colour"],
        "shape": found["shape"],
        "position": found["position"],
        "shuffled_caption_accuracy": shuffled["overall"],
        "real_image_accuracy": real["overall"],
        "images": count,
    }


def captioned_grid(
    images: np.ndarray, captions: list[str], columns: int = 6, scale: int = 4
) -> Image.Image:
    """Returns the images, enlarged, each with its caption beneath it."""
    size, text_height = images.shape[1] * scale, 30
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * (size + 8) + 8, rows * (size + text_height) + 8), "white")
    draw = ImageDraw.Draw(grid)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = 8 + (k % columns) * (size + 8), 8 + (k // columns) * (size + text_height)
        picture = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
        grid.paste(picture, (left, top))
        words = caption.removeprefix("a ").split(" at the ")
        draw.multiline_text((left, top + size + 1), "\n".join(words), fill="black", spacing=1)
    return grid


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
