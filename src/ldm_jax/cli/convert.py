"""`ldm-jax convert SRC DST --to LAYOUT`."""

import argparse
from typing import Any

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.progress import Progress
from ldm_jax.core.checks import UserError, check_in

EXAMPLES = """\
  ldm-jax convert sd-v1-4.ckpt models/sd_v1 --to ldm_jax --tokenizer DIR
  ldm-jax convert stable-diffusion-v1-4/ models/sd_v1 --to ldm_jax
  ldm-jax convert runs/shapes_text model.safetensors --to compvis
  ldm-jax convert v2-768.ckpt models/sd_v2 --to diffusers --config.task.parameterization=v \\
    --tokenizer DIR
SRC is a run's workdir, a folder of 'ldm-jax convert', a diffusers folder (Stable Diffusion 1 and 2,
latent diffusion, a bare VAE), or a CompVis file (.ckpt, .safetensors). Checkpoints are read without
executing anything in them.
"""
_MAX_LINES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("source", metavar="SRC", help="the model to read")
    add("target", metavar="DST", help="a new folder; with --to compvis a new .safetensors file")
    add("--to", metavar="LAYOUT", required=True, help="ldm_jax, diffusers or compvis")
    add("--config", metavar="FILE", help="of the model, where a CompVis file does not tell")
    add("--tokenizer", metavar="DIR", help="a Hugging Face folder, where SRC has none")
    add("--raw", action="store_true", help="raw parameters instead of their average")
    add(
        "--no_strict",
        action="store_true",
        help="go on in spite of missing, unexpected or mismatched tensors",
    )


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Converts, once every tensor is accounted for."""
    given = load_config(arguments.config) if arguments.config else None
    from ldm_jax.train.convert import LAYOUTS, check_target, convert, total_bytes
    from ldm_jax.train.exchange import open_model, read_model_config

    check_in("--to", arguments.to, LAYOUTS)
    check_target(arguments.source, arguments.target, arguments.to)
    ema = not arguments.raw
    config = read_model_config(arguments.source, ema=ema) if given is None else given
    apply_overrides(config, overrides)
    with open_model(
        arguments.source, config=config, tokenizer=arguments.tokenizer, ema=ema
    ) as model:
        for note in model.notes:
            print(f"note: {note}")
        _account(model, arguments.no_strict)
        with Progress("convert", total_bytes(model), "B") as progress:
            convert(model, arguments.target, arguments.to, progress)
    print(f"{arguments.source} ({model.layout}) is now {arguments.target} ({arguments.to})")


def _account(model: Any, go_on: bool) -> None:
    """Prints what does not fit; raises UserError for it unless told to go on."""
    count = sum(len(component) for component in model.infos.values())
    lines = model.report()
    if not lines:
        print(f"every tensor is accounted for ({count} parameters in {len(model.infos)} parts)")
        return
    for line in lines[:_MAX_LINES]:
        print(line)
    if len(lines) > _MAX_LINES:
        print(f"and {len(lines) - _MAX_LINES} more")
    if not go_on:
        raise UserError(
            f"{model.path}: {len(lines)} tensors do not fit, listed above. Legal: --no_strict, "
            "which draws what is missing at random and leaves out the rest, or its own --config."
        )
