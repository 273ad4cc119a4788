"""How a command that draws opens a model of any layout: a trained run, or weights in files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax.cli import sampling_flags
from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError

if TYPE_CHECKING:
    from ldm_jax.pipeline import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what a model in files may lack."""
    add = parser.add_argument
    add("--config", metavar="FILE", help="of the model, where a CompVis file does not tell")
    add("--tokenizer", metavar="DIR", help="a Hugging Face folder, where the model has none")


def model_config(
    command: str, source: Path, arguments: argparse.Namespace, overrides: list[str]
) -> Any:
    """Returns the model's configuration with the overrides in it.

    Args:
      command: whose flags are legal too.
      source: a trained run's folder, or a model in files.
      arguments: with those of `add_arguments`, `raw`, and `workdir` where that must be a run.
      overrides: as '--config.FIELD=VALUE'; of a trained run, only how it draws can change.

    Raises:
      UserError: a flag does not fit the kind of model.
    """
    from ldm_jax.train.checkpoint import is_workdir, read_config
    from ldm_jax.train.exchange import read_model_config

    if getattr(arguments, "workdir", None) or is_workdir(source):
        for name, more in (("config", "--config.sample.FIELD, or "), ("tokenizer", "")):
            if getattr(arguments, name):
                raise UserError(
                    f"--{name}: a trained run keeps its own. Legal: {more}with other models."
                )
        sampling_flags.check_overrides(command, overrides, ("sample.",))
        config = read_config(source).lock()
    elif arguments.config:
        config = load_config(arguments.config)
    else:
        config = read_model_config(source, ema=not arguments.raw)
    apply_overrides(config, overrides)
    return config


def open_pipeline(source: Path, config: Any, arguments: argparse.Namespace) -> "Pipeline":
    """Returns the pipeline of a model; `arguments` has also `raw` and `dtype`."""
    from ldm_jax.pipeline import Pipeline

    return Pipeline.from_checkpoint(
        source,
        config=config,
        tokenizer=arguments.tokenizer,
        ema=not arguments.raw,
        dtype=arguments.dtype,
    )
