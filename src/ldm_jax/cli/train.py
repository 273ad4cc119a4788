"""`ldm-jax train --config FILE --workdir DIR`."""

import argparse

from ldm_jax.cli import processes
from ldm_jax.cli.config_args import apply_overrides, load_config

EXAMPLES = """\
  ldm-jax train --config configs/shapes_autoencoder.py --workdir runs/shapes_autoencoder
  ldm-jax train --config configs/shapes_text.py --workdir runs/shapes_text \\
    --config.task.first_stage.workdir=runs/shapes_autoencoder
The same command again continues where the run ended. TensorBoard logs and image grids are in DIR.
SIGTERM saves, and ends with status 0; so does Ctrl-C, with 130.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where checkpoints, logs and grids go"
    )
    processes.add_arguments(parser)


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Trains until `config.train.steps`."""
    config = load_config(arguments.config)
    apply_overrides(config, overrides)
    # JAX starts here, not before: a typing mistake should not wait for it.
    from ldm_jax.train.loop import train

    with processes.one_of_many(arguments, overrides, saves_on_sigterm=True):
        step = int(train(config, arguments.workdir).step)
        if processes.first_process(arguments):
            print(f"trained to step {step}; checkpoints, logs and grids in {arguments.workdir}")
