"""`ldm-jax studio --checkpoint DIR`."""

import argparse
import sys
from pathlib import Path

from ldm_jax.cli import opening
from ldm_jax.cli.config_args import read_overrides
from ldm_jax.cli.numbers import whole
from ldm_jax.core.checks import UserError, read_text

EXAMPLES = """\
  ldm-jax studio --checkpoint runs/shapes_text
  ldm-jax studio --checkpoint stable-diffusion-v1-4/ --dtype bfloat16 --port 8000
  ldm-jax studio --checkpoint runs/faces --host 0.0.0.0 --password_file studio.txt
It listens on this machine alone; another address needs a password, of the user 'studio'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR_OR_FILE",
        help="a trained run, or a model of 'ldm-jax convert', diffusers or CompVis",
    )
    opening.add_arguments(parser)
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=whole(0), default=7860, help="0 takes one that is free (default: 7860)")
    add("--password_file", metavar="FILE", help="its first line is the password")
    add("--every", type=whole(1), default=5, help="steps between two previews (default: 5)")
    add("--most_images", type=whole(1), default=4, help="that one run draws (default: 4)")
    add("--lazy", action="store_true", help="compile what is steered when it is first needed")
    add("--raw", action="store_true", help="raw parameters instead of their average")
    add("--dtype", metavar="NAME", help="of the computation, such as bfloat16")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Serves the studio until it is interrupted."""
    from ldm_jax.studio.serve import check_address, serve

    if arguments.port > 65_535:
        raise UserError(f"--port={arguments.port}: legal is 0 to 65535.")
    password = _password(arguments.password_file)
    check_address(arguments.host, password)
    from ldm_jax.studio.studio import Studio

    source = Path(arguments.checkpoint).expanduser()
    config = opening.model_config("studio", source, arguments, overrides)
    pipeline = opening.open_pipeline(source, config, arguments)
    studio = Studio(
        pipeline,
        every=arguments.every,
        most_images=arguments.most_images,
        flags=opening_flags(arguments, overrides),
    )
    app, address = serve(
        studio,
        host=arguments.host,
        port=arguments.port,
        password=password,
        warm=not arguments.lazy,
    )
    sys.stdout.write(f"studio: {address}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    app.block_thread()


def opening_flags(arguments: argparse.Namespace, overrides: list[str]) -> list[str]:
    """Returns the flags of `ldm-jax sample` that open the same model."""
    named = {name: getattr(arguments, name) for name in ("config", "tokenizer", "dtype")}
    found = [f"--{name}={value}" for name, value in named.items() if value is not None]
    fields = [f"--config.{field}={value}" for field, value in read_overrides(overrides)]
    return [*found, *(["--raw"] if arguments.raw else []), *fields]


def _password(file: str | None) -> str | None:
    """Returns the first line of a file."""
    if file is None:
        return None
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"--password_file={path}: no such file; its first line is the password.")
    return read_text(path, "--password_file").split("\n")[0].strip()
