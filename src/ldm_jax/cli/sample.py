"""`ldm-jax sample --checkpoint DIR_OR_FILE --prompt TEXT`."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli import opening, processes, sampling_flags
from ldm_jax.cli.numbers import finite, whole
from ldm_jax.cli.progress import Progress
from ldm_jax.core.checks import UserError, read_text

if TYPE_CHECKING:
    from ldm_jax.pipeline.arguments import Arguments
    from ldm_jax.pipeline.regions import Region

EXAMPLES = """\
  ldm-jax sample --workdir runs/shapes_text --prompt "a large red circle at the top left" \\
    --num_images 4 --seed 1 --grid
  ldm-jax sample --workdir runs/shapes_text --prompts prompts.txt --sampler dpmpp_2m --steps 20
  ldm-jax sample --checkpoint stable-diffusion-v1-4/ --prompt "a red bicycle" --negative "blurry"
  ldm-jax sample --checkpoint sd-v1-4.ckpt --tokenizer DIR --prompt "a red bicycle" --size 512x768
  ldm-jax sample --workdir runs/shapes_text --prompt "a blue cross" --image a.png --strength 0.6
  ldm-jax sample --workdir runs/shapes_text --prompt "a blue cross" --image a.png --mask m.png
  ldm-jax sample --workdir runs/shapes_text --prompt "a blue cross" --regions regions.json
  ldm-jax sample --workdir runs/faces --num_images 50000 --npz --out samples
Image k depends on the seed, on k and on its prompt or class alone. The same call again goes on
where it was stopped.
"""


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
    opening.add_arguments(parser)
    add("--out", metavar="DIR", help="folder for the images (default: WORKDIR/out, or ./out)")
    add("--prompt", metavar="TEXT", action="append", help="repeat it for several images")
    add("--prompts", metavar="FILE", help="text file, one prompt or class number a line")
    add("--negative", metavar="TEXT", help="prompt or class number to steer away from")
    add(
        "--class",
        dest="classes",
        metavar="N",
        action="append",
        type=whole(0),
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
        type=whole(1),
        help="images of a single prompt or class",
    )
    add("--size", metavar="HxW", type=_size, help="in pixels (default: the training size)")
    sampling_flags.add_arguments(parser)
    add("--rescale", metavar="PHI", type=finite, help="of guided outputs, 0 to 1 (default: 0)")
    add("--image", metavar="FILE", help="to start from, instead of noise alone")
    add("--strength", metavar="S", type=finite, help="how much of it is drawn anew, 0 to 1")
    add("--mask", metavar="FILE", help="white where the image is painted over")
    add("--regions", metavar="FILE", help="painted regions with prompts, as the studio saves them")
    add("--window", metavar="HxW", type=_size, help="denoise larger images in such windows")
    add("--tile", metavar="N", type=whole(1), help="decode larger images in such windows")
    add("--grid", action="store_true", help="also write grid.png, of the first 256 images")
    add("--npz", action="store_true", help="also write all images as one .npz, in ADM's layout")
    add(
        "--save_every",
        metavar="K",
        type=whole(1),
        help="also write what is expected after every K rows of the sampler",
    )
    processes.add_arguments(parser)


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Draws bucket by bucket, and writes each image as soon as it is there."""
    source = Path(arguments.checkpoint or arguments.workdir).expanduser()
    lines = _lines(arguments)
    _check_count(arguments, lines)
    conditions = _conditions(arguments)
    given = [*sampling_flags.shortcuts(arguments), *overrides]
    config = opening.model_config("sample", source, arguments, given)
    out = Path(arguments.out or (source / "out" if arguments.workdir else "out"))
    with processes.one_of_many(arguments, overrides):
        _sample(source, config, (lines, conditions), out, arguments)


def _sample(
    source: Path,
    config: Any,
    read: tuple[list[str], dict[str, Any] | None],
    out: Path,
    arguments: argparse.Namespace,
) -> None:
    """Draws what was read: lines of prompts or classes, and other conditions."""
    lines, conditions = read
    from ldm_jax.cli.sample_files import SampleFolder
    from ldm_jax.train.preflight import check_folder, check_sampling

    check_folder("--out", out)
    check_sampling(config, arguments.size)
    pipeline = opening.open_pipeline(source, config, arguments)
    first = processes.first_process(arguments)
    for note in pipeline.notes if first else ():
        print(f"note: {note}")
    prompts, classes = _conditioned(arguments, lines, pipeline.task.conditioner.inputs)
    channels = pipeline.task.first_stage.model.image_channels
    wanted = _wanted(arguments, classes, conditions, channels)
    if arguments.regions is not None:
        edge = pipeline.task.image_size
        wanted["regions"] = _regions(arguments, _image_size(wanted) or (edge, edge))
    runs = pipeline.stream(prompts, **wanted)
    settings, rows = _record(arguments, pipeline, prompts, classes, runs)
    folder = SampleFolder(out, settings, rows) if first else None
    _draw(runs, folder, arguments.save_every)
    if folder is None:
        return
    if arguments.grid:
        from ldm_jax.train.hooks import image_grid

        folder.save_grid(image_grid)
    if arguments.npz:
        print(f"archive: {folder.save_npz()}")
    print(f"{len(folder)} image{'s' if len(folder) > 1 else ''} in {out}")


def _draw(runs: Any, folder: Any, save_every: int | None) -> None:
    """Runs every bucket whose images are not all there, and writes them.

    Several processes draw each bucket together. The first has the folder, the others None.
    """
    from ldm_jax.parallel.multihost import from_first
    from ldm_jax.pipeline.generation import finished

    with Progress("sample", runs.num_images, "image", shown=folder is not None) as progress:
        progress(0)

        def missing() -> Iterator[Any]:
            for generation in runs:
                if from_first("there" if folder and folder.has(generation.numbers) else ""):
                    progress(generation.count)
                else:
                    yield generation

        for generation in missing() if save_every else finished(missing()):
            while save_every is not None and not generation.done:
                generation.advance(save_every)
                images = zip(generation.numbers, generation.preview(), strict=True)
                for number, image in images if folder else ():
                    folder.save_intermediate(number, generation.row, image)
            images = zip(generation.numbers, generation.images(), strict=True)
            for number, image in images if folder else ():
                folder.save(number, image)
            progress(generation.count)


def _record(
    arguments: argparse.Namespace,
    pipeline: Any,
    prompts: list[str] | None,
    classes: list[int] | None,
    runs: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the record of what makes the images: all of them, and each."""
    settings = {
        "checkpoint": str(arguments.checkpoint or arguments.workdir),
        "checkpoint_hash": pipeline.fingerprint(),
        "step": pipeline.step,
        "parameters": "raw" if arguments.raw else "ema",
        "seed": arguments.seed,
        "size": list(runs.image_shape),
        "sample": pipeline.config.sample.to_dict(),
    }
    flags = ("tokenizer", "dtype", "negative", "rescale", "strength", "window", "tile")
    for name in (*flags, "save_every"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    for name in ("conditions", "image", "mask", "regions"):
        path = getattr(arguments, name)
        if path is not None:
            # Another file under the same name makes other images.
            content = Path(path).expanduser().read_bytes()
            settings[name] = {"file": path, "sha256": hashlib.sha256(content).hexdigest()}
    rows: list[dict[str, Any]] = [{} for _ in range(runs.num_images)]
    for key, values in (("prompt", prompts), ("class", classes)):
        for k, row in enumerate(rows if values else ()):
            row[key] = (values or [])[k % len(values or [])]
    return settings, rows


def _wanted(
    arguments: argparse.Namespace,
    classes: list[int] | None,
    conditions: dict[str, Any] | None,
    channels: int,
) -> "Arguments":
    """Returns the arguments of the pipeline's call."""
    from ldm_jax.cli.sample_files import read_image

    wanted: Any = {
        "classes": classes,
        "conditions": conditions,
        "num_images": arguments.num_images,
        "seed": arguments.seed,
        "image_shape": arguments.size,
        "guidance_rescale": arguments.rescale,
        "strength": arguments.strength,
        "window": arguments.window,
        "tile": arguments.tile,
    }
    if arguments.negative is not None:
        negative = arguments.negative
        is_class = classes and negative.isascii() and negative.isdigit()
        wanted["negative"] = int(negative) if is_class else negative
    if arguments.image is not None:
        wanted["image"] = read_image("--image", arguments.image, channels)
    if arguments.mask is not None:
        wanted["mask"] = read_image("--mask", arguments.mask, 1)[..., 0]
    return wanted


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


def _regions(arguments: argparse.Namespace, size: tuple[int, int]) -> "list[Region]":
    """Returns the regions of --regions, for an image of `size`."""
    from ldm_jax.pipeline.painted import read_regions

    path = Path(arguments.regions).expanduser()
    if not path.is_file():
        raise UserError(f"--regions={path}: no such file; the studio saves one.")
    return [painted.region() for painted in read_regions(path.read_bytes(), size)]


def _image_size(wanted: "Arguments") -> tuple[int, int] | None:
    """Returns (H, W) that is asked for, or that of the image that is started from."""
    image = wanted.get("image")
    return wanted.get("image_shape") or (None if image is None else image.shape[:2])


def _lines(arguments: argparse.Namespace) -> list[str]:
    """Returns the lines of --prompts, without blank ones."""
    if arguments.prompts is None:
        return []
    path = Path(arguments.prompts).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"--prompts={path}: {what}; expected one prompt a line.")
    # Not splitlines: that would also break at characters that may stand in a text.
    lines = [line.strip() for line in read_text(path, "--prompts").split("\n") if line.strip()]
    if not lines:
        raise UserError(f"--prompts={path}: has no text in it; expected one prompt a line.")
    return lines


def _check_count(arguments: argparse.Namespace, lines: list[str]) -> None:
    given = max(len(arguments.prompt or []), len(arguments.classes or [])) + len(lines)
    if arguments.num_images is not None and given > 1:
        raise UserError(
            f"--num_images={arguments.num_images}: got {given} prompts or classes, one image "
            "each. Legal: --num_images with at most one of them."
        )


def _conditioned(
    arguments: argparse.Namespace, lines: list[str], reads: tuple[str, ...]
) -> tuple[list[str] | None, list[int] | None]:
    """Returns all prompts and all classes; the lines of a file are what the model reads."""
    prompts, classes = arguments.prompt, arguments.classes
    if not lines or reads != ("class",):
        return [*(prompts or []), *lines] or None, classes
    for line in lines:
        if not (line.isascii() and line.isdigit()):
            raise UserError(f"--prompts: got {line!r}. Legal: this model reads class numbers.")
    return prompts, [*(classes or []), *map(int, lines)]


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected HEIGHTxWIDTH in pixels, such as 64x96"
        )
    return int(parts[0]), int(parts[1])
