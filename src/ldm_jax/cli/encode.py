"""`ldm-jax encode --config FILE --out DIR`."""

import argparse
from typing import Any

from ldm_jax.cli import processes
from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.progress import Progress

EXAMPLES = """\
  ldm-jax encode --config configs/emoji_text.py --out caches/emoji \\
    --config.data.source.path=DIR --config.task.first_stage.workdir=runs/ae
  ldm-jax train --config configs/emoji_text.py --workdir runs/ldm \\
    --config.data.latent_cache=caches/emoji --config.task.first_stage.workdir=runs/ae
The same command again continues where it ended. The cache holds posterior moments, so training
still samples the posterior; and those of mirror images where config.data.flip_probability is not 0.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="of the diffusion model to be trained")
    add("--out", required=True, metavar="DIR", help="folder of the cache")
    add(
        "--per_device_batch",
        metavar="N",
        type=int,
        default=32,
        help="images that a device encodes at once (default: 32)",
    )
    add(
        "--examples_per_shard",
        metavar="N",
        type=int,
        default=2048,
        help="images in a file (default: 2048)",
    )
    add(
        "--conditioning",
        metavar="DTYPE",
        help="also write what a frozen conditioner answers, as float16 or float32, so that "
        "training needs no text encoder",
    )
    processes.add_arguments(parser)


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Encodes every example that is not in the cache yet."""
    config = load_config(arguments.config)
    apply_overrides(config, overrides)
    with processes.one_of_many(arguments, overrides):
        _encode(config, arguments)


def _encode(config: Any, arguments: argparse.Namespace) -> None:
    from ldm_jax.train.encode import encode

    first = processes.first_process(arguments)
    with Progress("encode", None, "image", shown=first) as progress:
        done = encode(
            config,
            arguments.out,
            per_device_batch=arguments.per_device_batch,
            examples_per_shard=arguments.examples_per_shard,
            conditioning=arguments.conditioning,
            progress=progress,
        )
    if not first:
        return
    before = f", {done.shards_before} were there" if done.shards_before else ""
    print(
        f"{done.images:,} images encoded, {done.shards} shards written{before}; "
        f"{done.num_bytes:,} bytes in {arguments.out}; "
        f"{done.images / max(done.seconds, 1e-9):.1f} images/s"
    )
