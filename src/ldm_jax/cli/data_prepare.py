"""`ldm-jax data prepare PATH --out DIR`."""

import argparse

from ldm_jax.cli import data_source
from ldm_jax.cli.progress import Progress

EXAMPLES = """\
  ldm-jax data prepare photos/ --out prepared/photos --resize 256 --format jpeg
  ldm-jax data prepare 'shards/train-*.tar' --out prepared/train
  ldm-jax data prepare tensorflow_datasets/mnist --split test --out prepared/mnist
  ldm-jax train --config FILE --workdir DIR --config.data.source.name=records \\
    --config.data.source.path=prepared/photos
The same command again continues where it ended. Images that cannot be read are left out, and listed
with the reason in DIR/quarantine.jsonl.
"""
DETAILS = data_source.PATHS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    data_source.add_arguments(parser)
    add("--out", required=True, metavar="DIR", help="a new folder, or that of an earlier call")
    add("--resize", metavar="N", type=int, help="reduce the shorter side to at most N pixels")
    add(
        "--format",
        metavar="NAME",
        default="auto",
        help="png, jpeg or webp; auto (default) keeps the files of images that are not resized, "
        "and stores others as PNG. Images with transparency, which JPEG lacks, become PNG",
    )
    add("--quality", metavar="Q", type=int, default=95, help="of jpeg and webp (default: 95)")
    add(
        "--examples_per_shard",
        metavar="N",
        type=int,
        default=2048,
        help="images in a file (default: 2048)",
    )


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Writes every example that is not there yet."""
    from ldm_jax.data.image_files import Storage
    from ldm_jax.data.prepare import prepare
    from ldm_jax.data.record_format import QUARANTINE

    storage = Storage(arguments.resize, arguments.format, arguments.quality)
    source, _ = data_source.open_source(data_source.read_config(arguments, overrides))
    with Progress("prepare", None, "image") as progress:
        done = prepare(
            source,
            arguments.out,
            storage,
            examples_per_shard=arguments.examples_per_shard,
            num_threads=arguments.num_threads,
            progress=progress,
        )
    before = f", {done.shards_before} were there" if done.shards_before else ""
    print(
        f"{done.written:,} images written, {done.shards} shards{before}; {done.examples:,} images, "
        f"{done.num_bytes:,} bytes in {arguments.out}; "
        f"{done.written / max(done.seconds, 1e-9):.1f} images/s"
    )
    if done.left_out:
        print(f"{done.left_out:,} could not be read: see {arguments.out}/{QUARANTINE}")
