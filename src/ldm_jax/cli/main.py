"""`ldm-jax COMMAND`: one line on standard error for every mistake of a user, no traceback."""

import argparse
import sys
from collections.abc import Sequence

from ldm_jax import __version__
from ldm_jax.core.checks import UserError, did_you_mean

COMMANDS = {
    "train": "train a first stage or a diffusion model; resumes by itself",
    "sample": "draw images from a trained diffusion model",
    "info": "print parameters, shapes and the learning rate of a config",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        name = arguments[0]
        return _fail(
            f"unknown command {name!r}{did_you_mean(name, COMMANDS)} Legal: {', '.join(COMMANDS)}."
        )
    parser = argparse.ArgumentParser(
        prog="ldm-jax",
        description="Latent diffusion models in JAX.",
        epilog="Any field of the config can be set with --config.a.b=value.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        _module(name).add_arguments(
            subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        )
    parsed, rest = parser.parse_known_args(arguments)
    try:
        _module(parsed.command).run(parsed, rest)
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    return 0


def _module(name: str):
    # Imported by name so that each command loads only what it needs.
    import importlib

    return importlib.import_module(f"ldm_jax.cli.{name}")


def _fail(message: str, status: int = 2) -> int:
    sys.stderr.write(f"ldm-jax: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
