"""`ldm-jax sample --checkpoint DIR_OR_FILE --prompt TEXT`."""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.progress import Progress
from ldm_jax.core.checks import UserError, read_text

EXAMPLES = """\
  ldm-jax sample --workdir runs/shapes_text --prompt "a large red circle at the top left" \\
    --num_images 4 --seed 1
  ldm-jax sample --workdir runs/shapes_text --prompts_file prompts.txt --sampler ddpm --steps 250
  ldm-jax sample --checkpoint stable-diffusion-v1-4/ --prompt "a red bicycle"
  ldm-jax sample --checkpoint sd-v1-4.ckpt --tokenizer DIR --prompt "a red bicycle" --size 512x768
Image k depends on the seed, on k and on its prompt or class alone.
"""
_RECORD = "samples.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", metavar="DIR", help="of a trained diffusion model")
    model.add_argument(
        "--checkpoint",
        metavar="DIR_OR_FILE",
        help="a model of any layout: also of 'ldm-jax convert', diffusers or CompVis",
    )
    add("--config", metavar="FILE", help="of the model, where a CompVis file does not tell")
    add("--tokenizer", metavar="DIR", help="a Hugging Face folder, where the model has none")
    add("--out", metavar="DIR", help="folder for the images (default: WORKDIR/out, or ./out)")
    add("--prompt", metavar="TEXT", action="append", help="repeat it for several images")
    add("--prompts_file", metavar="FILE", help="text file, one prompt a line")
    add(
        "--class",
        dest="classes",
        metavar="N",
        action="append",
        type=_whole(0),
        help="class number; repeat it for several images",
    )
    add(
        "--conditions",
        metavar="FILE.npz",
        help="arrays for models that read something else, such as low_res, a row per image",
    )
    add(
        "--num_images",
        metavar="N",
        type=_whole(1),
        help="images of a single prompt or class",
    )
    add("--seed", metavar="N", type=_whole(0), default=0, help="of the noise (default: 0)")
    add("--size", metavar="HxW", type=_size, help="in pixels (default: the training size)")
    add("--sampler", metavar="NAME", help="short for --config.sample.sampler.name")
    add("--steps", metavar="N", type=_whole(1), help="short for --config.sample.steps")
    add(
        "--guidance",
        metavar="S",
        type=_finite,
        help="short for --config.sample.guidance_scale; 1 turns guidance off",
    )
    add("--raw", action="store_true", help="raw parameters instead of their average")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Draws, then writes one PNG per image, a grid, and what made them as JSON."""
    prompts = _prompts(arguments)
    given = prompts or arguments.classes or ()
    if arguments.num_images is not None and len(given) > 1:
        raise UserError(
            f"--num_images={arguments.num_images}: got {len(given)} prompts or classes, one image "
            "each. Legal: --num_images with at most one of them."
        )
    source = Path(arguments.checkpoint or arguments.workdir).expanduser()
    config = _config(source, arguments, overrides)
    out = Path(arguments.out or (source / "out" if arguments.workdir else "out"))

    from ldm_jax.pipeline import Pipeline
    from ldm_jax.train.preflight import check_folder, check_sampling

    check_folder("--out", out)
    check_sampling(config, arguments.size)
    pipeline = Pipeline.from_checkpoint(
        source, config=config, tokenizer=arguments.tokenizer, ema=not arguments.raw
    )
    for note in pipeline.notes:
        print(f"note: {note}")
    count = max(len(given), arguments.num_images or 1)
    with Progress("sample", count, "image") as progress:
        images = pipeline(
            prompts,
            classes=arguments.classes,
            conditions=_conditions(arguments),
            num_images=arguments.num_images,
            seed=arguments.seed,
            image_shape=arguments.size,
            progress=progress,
        )
    settings = {
        "checkpoint": str(source),
        "step": pipeline.step,
        "parameters": "raw" if arguments.raw else "ema",
        "seed": arguments.seed,
        "size": list(images.shape[1:3]),
        "sample": config.sample.to_dict(),
    }
    _write(out, images, prompts, arguments.classes, settings)
    print(f"{len(images)} image{'s' if len(images) > 1 else ''} in {out}")


def _config(source: Path, arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """Returns the model's configuration with the flags in it; a run's can change in part only."""
    from ldm_jax.train.checkpoint import is_workdir, read_config
    from ldm_jax.train.exchange import read_model_config

    if arguments.workdir or is_workdir(source):
        if arguments.config:
            raise UserError("--config: a trained run keeps its own. Legal: --config.sample.FIELD.")
        _check_overrides(overrides)
        config = read_config(source).lock()
    elif arguments.config:
        config = load_config(arguments.config)
    else:
        config = read_model_config(source, ema=not arguments.raw)
    apply_overrides(config, [*_shortcuts(arguments), *overrides])
    return config


def _check_overrides(overrides: list[str]) -> None:
    """Raises UserError for a field that made the model: changing it would not change the model."""
    for argument in overrides:
        if argument.startswith("--config.") and not argument.startswith("--config.sample."):
            raise UserError(
                f"{argument}: a trained run keeps its configuration. Legal: --config.sample.FIELD, "
                "and the flags of 'ldm-jax sample --help'."
            )


def _shortcuts(arguments: argparse.Namespace) -> list[str]:
    """Returns the overrides that flags stand for."""
    fields = {
        "sampler.name": arguments.sampler,
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
    }
    return [f"--config.sample.{k}={v}" for k, v in fields.items() if v is not None]


def _write(
    out: Path, images: Any, prompts: list[str] | None, classes: list[int] | None, settings: dict
) -> None:
    """Writes the images, their grid and their record, in place of those of an earlier call."""
    from ldm_jax.train.hooks import image_grid, save_png

    record = out / _RECORD
    # A longer earlier call would leave images that look like ours.
    for number in range(len(images), _images_before(record)):
        _image_path(out, number).unlink(missing_ok=True)
    rows = []
    for k, image in enumerate(images):
        save_png(_image_path(out, k), image)
        row: dict[str, Any] = {"file": _image_path(out, k).name, "index": k}
        for key, values in (("prompt", prompts), ("class", classes)):
            if values:
                row[key] = values[k % len(values)]
        rows.append(row)
    save_png(out / "grid.png", image_grid(images))
    text = json.dumps({**settings, "num_images": len(rows), "images": rows}, indent=2)
    record.write_text(text + "\n")


def _images_before(record: Path) -> int:
    """Returns how many images an earlier call recorded; 0 without a whole record."""
    try:
        return int(json.loads(record.read_text())["num_images"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _image_path(out: Path, number: int) -> Path:
    return out / f"{number:05d}.png"


def _conditions(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Returns the arrays of --conditions by name."""
    if arguments.conditions is None:
        return None
    import numpy as np

    path = Path(arguments.conditions)
    if not path.is_file():
        raise UserError(f"--conditions={path}: no such file; expected a .npz of numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(f"--conditions={path}: not a .npz of plain arrays ({error}).") from error


def _prompts(arguments: argparse.Namespace) -> list[str] | None:
    """Returns all prompts, those of the file last, without its blank lines."""
    if arguments.prompts_file is None:
        return arguments.prompt
    path = Path(arguments.prompts_file)
    if not path.is_file():
        raise UserError(f"--prompts_file={path}: no such file; expected one prompt a line.")
    lines = read_text(path, "--prompts_file").splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"--prompts_file={path}: has no text in it; expected one prompt a line.")
    return [*(arguments.prompt or []), *prompts]


def _whole(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number from {minimum} to 2^32 - 1"
            )
        return int(text)

    return parse


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number such as 2.0")
    return value


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected HEIGHTxWIDTH in pixels, such as 64x96"
        )
    return int(parts[0]), int(parts[1])
