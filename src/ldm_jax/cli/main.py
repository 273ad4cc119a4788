"""`ldm-jax COMMAND`: one line on standard error for every mistake of a user, no traceback."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from ldm_jax import __version__
from ldm_jax.cli.endings import ending, line
from ldm_jax.core.checks import UserError, did_you_mean

COMMANDS = {
    "train": "train a first stage or a diffusion model; resumes by itself",
    "sample": "draw images from a trained diffusion model",
    "studio": "draw in a browser: steer a run under way, regions, edits, a look inside",
    "evaluate": "measure a trained model: FID, precision and recall, PSNR, … with what made them",
    "inspect": "draw how a model noises, denoises and attends, its latents, its nearest images",
    "encode": "write the latents of a data set to disk, for training without its images",
    "convert": "write a model in another layout: ldm_jax, diffusers, compvis",
    "info": "print parameters, shapes and the learning rate of a config",
    "plan": "compile a config for chips that need not be here: memory, FLOPs, largest batch",
    "data": "look through images before training on them, or pack them into few files",
}

# Commands of two words.
SUBCOMMANDS = {
    "data": {
        "check": "count and measure images, captions, classes and maps; find what is broken",
        "prepare": "write images and what belongs to them to shards that are quick to read",
    },
}

OVERRIDES = """\
fields of the configuration:
  --config.a.b=value     sets a field to a Python literal or a string, as in
                         --config.train.batch_size=256 --config.train.mesh="(4,2,1)"
  --config.a.name=value  takes another object, such as a sampler, with its own defaults
"""


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required:", "missing")
        raise UserError(f"{message}; see '{self.prog} --help'.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `ldm-jax info … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        known = ending(error)
        if known is None:
            raise
        sys.stderr.write(line(known[0]))
        return known[1]
    return 0


def program() -> NoReturn:
    """Runs one command and ends the process, at once if it failed.

    Orbax's writers are threads that the interpreter would wait for; after a full disk, some wait
    twenty minutes for others that died of it.
    """
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if status:
        os._exit(status)
    sys.exit(0)


def _run(arguments: list[str]) -> None:
    words = _command(arguments)
    parser, flags = _make_parser()
    if words in flags:
        _check_flags(arguments[len(words) :], flags[words])
    parsed, rest = parser.parse_known_args(arguments)
    _check_rest(rest)
    from ldm_jax.cli.logs import command_logs

    with command_logs():
        _module(*words).run(parsed, rest)


def _command(arguments: list[str]) -> tuple[str, ...]:
    """Returns the one or two words of the command, or what stands before a flag such as --help.

    Raises:
      UserError: there is no such command, naming those that are legal.
    """
    words: tuple[str, ...] = ()
    legal: Mapping[str, str] | None = COMMANDS
    while legal:
        choices, program = ", ".join(legal), " ".join(["ldm-jax", *words])
        if len(arguments) == len(words):
            raise UserError(f"missing COMMAND. Legal: {choices}; see '{program} --help'.")
        name = arguments[len(words)]
        if name.startswith("-"):
            break
        if name not in legal:
            whole = " ".join([*words, name])
            raise UserError(
                f"unknown command {whole!r}{did_you_mean(name, legal)} Legal: {choices}."
            )
        words = (*words, name)
        legal = SUBCOMMANDS.get(name) if len(words) == 1 else None
    return words


def _make_parser() -> tuple[argparse.ArgumentParser, dict[tuple[str, ...], list[str]]]:
    """Returns the parser, and every command's flags."""
    parser = _Parser(
        prog="ldm-jax",
        description="Latent diffusion models in JAX.",
        epilog="Each command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    flags: dict[tuple[str, ...], list[str]] = {}
    for name, text in COMMANDS.items():
        parts = SUBCOMMANDS.get(name, {})
        modules = [_module(name, part) for part in parts] or [_module(name)]
        details = "" if parts else getattr(modules[0], "DETAILS", "")
        group = _add_command(commands, name, text, "".join(m.EXAMPLES for m in modules), details)
        if not parts:
            flags[name,] = _declare(group, modules[0])
            continue
        subcommands = group.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
        for (part, about), module in zip(parts.items(), modules, strict=True):
            command = _add_command(subcommands, part, about, module.EXAMPLES, module.DETAILS)
            flags[name, part] = _declare(command, module)
    return parser, flags


def _add_command(
    commands: Any, name: str, text: str, examples: str, details: str = ""
) -> argparse.ArgumentParser:
    details = f"{details}\n" if details else ""
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"{details}{OVERRIDES}\nexamples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _declare(command: argparse.ArgumentParser, module: ModuleType) -> list[str]:
    """Adds the flags of a command, and returns their names."""
    module.add_arguments(command)
    return ["--help", *re.findall(r"--\w+", command.format_usage())]


def _check_flags(arguments: list[str], flags: list[str]) -> None:
    """Raises UserError for a flag that is neither the command's nor an override."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in flags and not name.startswith("--config."):
            raise UserError(
                f"unknown argument {name!r}{did_you_mean(name, flags)} Legal: {', '.join(flags)}."
            )


def _check_rest(rest: list[str]) -> None:
    """Raises UserError unless what argparse left are overrides and their values."""
    takes_value = False
    for argument in rest:
        is_override = argument.startswith("--config.")
        if not is_override and not takes_value:
            raise UserError(f"unknown argument {argument!r}. Legal: flags, each before its value.")
        takes_value = is_override and "=" not in argument


def _module(*words: str) -> ModuleType:
    # Imported by name so that each command loads only what it needs.
    return importlib.import_module(f"ldm_jax.cli.{'_'.join(words)}")


if __name__ == "__main__":
    program()
