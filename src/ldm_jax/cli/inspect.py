"""`ldm-jax inspect --workdir DIR --what noising,denoising,latents,attention,neighbours`."""

import argparse
from pathlib import Path
from typing import Any

from ldm_jax.cli import sampling_flags
from ldm_jax.cli.config_args import apply_overrides
from ldm_jax.cli.numbers import whole
from ldm_jax.core.checks import UserError, check_in

EXAMPLES = """\
  ldm-jax inspect --workdir runs/shapes_text --what denoising,attention \\
    --prompt "a large red circle at the top left" --seed 1
  ldm-jax inspect --workdir runs/shapes_text --what noising,latents --image a.png
  ldm-jax inspect --workdir runs/faces --what neighbours --num_images 16
"""
DETAILS = """\
what there is to see, a picture each:
  noising     x_t of an image at evenly spread t, decoded, and the channels of its latent
  denoising   a sample in the making: x_t, and x_0 as predicted from it
  latents     an image, what its latent decodes to, and each channel
  attention   where in a sample the network looks at each word of the prompt
  neighbours  samples beside the nearest training images; their distances beside those of held-out
              images
--features FILE.npz measures the distances of neighbours in arrays 'train', 'held_out' and
'samples', [n, d] each: the rows of 'train' are config.data.source's less what is held out, those of
'samples' the images of this call.
"""
# Flags that say nothing to the other views.
_READ_BY = {
    "image": ("noising", "latents"),
    "num_images": ("neighbours",),
    "features": ("neighbours",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="of a trained diffusion model")
    add("--what", required=True, metavar="NAME[,NAME]", help="what to draw, see below")
    add("--prompt", metavar="TEXT", action="append", help="repeat it for several samples")
    add(
        "--class",
        dest="classes",
        metavar="N",
        action="append",
        type=whole(0),
        help="class number; repeat it for several samples",
    )
    add(
        "--num_images",
        metavar="N",
        type=whole(1),
        help="samples of a single prompt or class whose neighbours are searched (default: 1)",
    )
    add("--image", metavar="FILE", help="to look at, instead of a sample")
    add("--seed", metavar="N", type=whole(0), default=0, help="of the noise (default: 0)")
    add("--frames", metavar="N", type=whole(1), default=8, help="noise levels (default: 8)")
    add("--features", metavar="FILE.npz", help="distances of neighbours in these, not in pixels")
    add("--raw", action="store_true", help="raw parameters instead of their average")
    add("--out", metavar="DIR", help="folder for the pictures (default: WORKDIR/inspect)")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Writes a PNG for each view, all of them to TensorBoard, and prints what they say."""
    from ldm_jax.inspection import VIEWS

    wanted = list(dict.fromkeys(arguments.what.split(",")))
    for name in wanted:
        check_in("--what", name, VIEWS)
    for flag, readers in _READ_BY.items():
        if getattr(arguments, flag) is not None and not set(readers) & set(wanted):
            raise UserError(f"--{flag}: has no effect without --what {' or '.join(readers)}.")
    from ldm_jax.train.preflight import check_folder

    out = Path(arguments.out or Path(arguments.workdir) / "inspect").expanduser()
    check_folder("--out", out)
    subject = _subject(arguments, overrides)
    _draw(subject, {name: VIEWS[name] for name in wanted}, out)


def _draw(subject: Any, views: dict[str, Any], out: Path) -> None:
    from ldm_jax.cli.sample_files import save_whole_png
    from ldm_jax.train.hooks import log_pictures

    pictures = {}
    for name, view in views.items():
        pictures[name], lines = view(subject)
        out.mkdir(parents=True, exist_ok=True)
        save_whole_png(out / f"{name}.png", pictures[name])
        for line in lines:
            print(f"{name}: {line}")
    log_pictures(out / "tensorboard", subject.pipeline.step, pictures)
    print(f"{', '.join(f'{name}.png' for name in views)} in {out}")


def _subject(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """Returns what is looked at, with the run's model."""
    from ldm_jax.cli.sample_files import read_image
    from ldm_jax.inspection.view import Subject
    from ldm_jax.pipeline import Pipeline
    from ldm_jax.train.checkpoint import read_config

    sampling_flags.check_overrides("inspect", overrides, ("sample.", "data.source."))
    source = Path(arguments.workdir).expanduser()
    config = read_config(source).lock()
    apply_overrides(config, overrides)
    pipeline = Pipeline.from_checkpoint(source, config=config, ema=not arguments.raw)
    image = None
    if arguments.image is not None:
        channels = pipeline.task.first_stage.model.image_channels
        image = read_image("--image", arguments.image, channels)
    return Subject(
        pipeline,
        prompts=arguments.prompt,
        classes=arguments.classes,
        num_images=arguments.num_images,
        seed=arguments.seed,
        image=image,
        frames=arguments.frames,
        features=arguments.features,
    )
