"""The flags of commands that draw images."""

import argparse

from ldm_jax.cli.numbers import finite, whole
from ldm_jax.core.checks import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares how images are drawn, and with which parameters."""
    add = parser.add_argument
    add("--seed", metavar="N", type=whole(0), default=0, help="of the noise (default: 0)")
    add("--sampler", metavar="NAME", help="short for --config.sample.sampler.name")
    add("--steps", metavar="N", type=whole(1), help="short for --config.sample.steps")
    add(
        "--guidance",
        metavar="S",
        type=finite,
        help="short for --config.sample.guidance_scale; 1 turns guidance off",
    )
    add("--spacing", metavar="NAME", help="short for --config.sample.spacing")
    add("--raw", action="store_true", help="raw parameters instead of their average")
    add("--dtype", metavar="NAME", help="of the computation, such as bfloat16")


def shortcuts(arguments: argparse.Namespace) -> list[str]:
    """Returns the overrides that flags stand for."""
    fields = {
        "sampler.name": arguments.sampler,
        "steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "spacing": arguments.spacing,
    }
    return [f"--config.sample.{k}={v}" for k, v in fields.items() if v is not None]


def check_overrides(command: str, overrides: list[str], legal: tuple[str, ...]) -> None:
    """Raises UserError for a field that made the model: changing it would not change the model.

    Args:
      command: whose flags are legal too.
      overrides: as they were given.
      legal: beginnings of what may be overridden, such as 'sample.'.
    """
    for argument in overrides:
        name = argument.removeprefix("--config.")
        if name != argument and not name.startswith(legal):
            fields = ", ".join(f"--config.{x}{'FIELD' if x.endswith('.') else ''}" for x in legal)
            raise UserError(
                f"{argument}: a trained run keeps its configuration. Legal: {fields}, "
                f"and the flags of 'ldm-jax {command} --help'."
            )
