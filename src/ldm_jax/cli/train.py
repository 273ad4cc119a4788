"""`ldm-jax train --config FILE --workdir DIR`."""

import argparse

from ldm_jax.cli.config_args import apply_overrides, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--workdir", required=True, help="where checkpoints and logs go")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Trains until `config.train.steps`."""
    config = load_config(arguments.config)
    apply_overrides(config, overrides)
    # JAX starts here, not before: a typing mistake should not wait for it.
    from ldm_jax.train.loop import train

    train(config, arguments.workdir)
