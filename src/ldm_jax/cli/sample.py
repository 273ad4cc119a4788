"""`ldm-jax sample --workdir DIR --prompt TEXT`."""

import argparse
import json
from pathlib import Path

from ldm_jax.cli.config_args import apply_overrides
from ldm_jax.core.checks import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--workdir", required=True, help="of a trained diffusion model")
    parser.add_argument("--out", help="folder for the images, by default WORKDIR/out")
    parser.add_argument("--prompt", action="append", help="text; repeat for several images")
    parser.add_argument("--prompts_file", help="text file, one prompt per line")
    parser.add_argument("--class", dest="classes", action="append", type=int, help="class number")
    parser.add_argument("--num_images", type=int, help="images of a single prompt or class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", help="HEIGHTxWIDTH in pixels, by default the training size")
    parser.add_argument("--sampler", help="short for --config.sample.sampler.name")
    parser.add_argument("--steps", type=int, help="short for --config.sample.steps")
    parser.add_argument("--guidance", type=float, help="short for --config.sample.guidance_scale")
    parser.add_argument("--raw", action="store_true", help="raw parameters instead of their EMA")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Draws, then writes one PNG per image, a grid, and what made them as JSON."""
    from ldm_jax.train.checkpoint import read_config

    config = read_config(arguments.workdir)
    if arguments.sampler is not None:
        config.sample.sampler = {"name": arguments.sampler}
    if arguments.steps is not None:
        config.sample.steps = arguments.steps
    if arguments.guidance is not None:
        config.sample.guidance_scale = arguments.guidance
    apply_overrides(config.lock(), overrides)
    prompts = _prompts(arguments)

    from tqdm import tqdm

    from ldm_jax.pipeline import Pipeline
    from ldm_jax.train.hooks import image_grid, save_png

    pipeline = Pipeline.from_checkpoint(arguments.workdir, config=config, ema=not arguments.raw)
    count = max(len(prompts or ()), len(arguments.classes or ()), arguments.num_images or 1)
    with tqdm(total=count, unit="image", desc="sample") as bar:
        images = pipeline(
            prompts,
            classes=arguments.classes,
            num_images=arguments.num_images,
            seed=arguments.seed,
            image_shape=_size(arguments.size),
            progress=bar.update,
        )
    out = Path(arguments.out or Path(arguments.workdir) / "out")
    for k, image in enumerate(images):
        save_png(out / f"{k:05d}.png", image)
    save_png(out / "grid.png", image_grid(images))
    record = {
        "workdir": str(arguments.workdir),
        "step": pipeline.step,
        "parameters": "raw" if arguments.raw else "ema",
        "seed": arguments.seed,
        "prompts": prompts,
        "classes": arguments.classes,
        "num_images": len(images),
        "size": list(images.shape[1:3]),
        "sample": config.sample.to_dict(),
    }
    (out / "samples.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(images)} images in {out}")


def _prompts(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.prompts_file is None:
        return arguments.prompt
    path = Path(arguments.prompts_file)
    if not path.is_file():
        raise UserError(f"--prompts_file={path}: no such file.")
    return [*(arguments.prompt or []), *path.read_text().splitlines()]


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UserError(f"--size={text}: expected HEIGHTxWIDTH in pixels, such as 64x96.")
    return int(parts[0]), int(parts[1])
