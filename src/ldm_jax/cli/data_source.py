"""Which data the `data` commands read: PATH, --config FILE, or both."""

import argparse
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError, lookup

PATHS = """\
PATH is a folder of images (with metadata.jsonl, or class folders, or neither); a folder, file or
pattern of .tar files as WebDataset has them ('shards/*.tar'); the folder of a prepared TFDS data
set; or a folder of 'ldm-jax data prepare'. With --config and no PATH, it is what the config reads;
with both, PATH takes the place of the config's. Maps and masks lie beside the images, as
NAME.segmentation.png and NAME.mask.png, or in the columns segmentation, mask and boxes of
metadata.jsonl.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags that say which data are meant."""
    add = parser.add_argument
    add("path", metavar="PATH", nargs="?", help="the data, see below")
    add("--config", metavar="FILE", help="Python file with get_config(), of a model to train")
    add("--split", metavar="NAME", help="of a TFDS data set (default: train)")
    add("--num_threads", metavar="N", type=int, help="default: one per processor")


def read_config(arguments: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """Returns a configuration whose `data.source` is what the arguments mean.

    Raises:
      UserError: neither PATH nor --config, or a mistake in them.
    """
    if arguments.path is None and arguments.config is None:
        raise UserError("missing PATH. Legal: PATH, --config FILE, or both; see --help.")
    if arguments.path is None and arguments.split is not None:
        raise UserError("--split: goes with PATH. Legal: --config.data.source.split=NAME.")
    config = ConfigDict({"data": {"source": {}}})
    if arguments.config is not None:
        config = load_config(arguments.config)
    if arguments.path is not None:
        from ldm_jax.data.detect import source_settings

        found = source_settings(arguments.path, arguments.split)
        with config.unlocked(), config.ignore_type():
            if config.data.source.get("name") != found["name"]:
                config.data.source = ConfigDict()
            config.data.source.update(found)
    apply_overrides(config, overrides)
    return config


def open_source(config: ConfigDict) -> tuple[Any, float]:
    """Returns the source, which stops at no number of bad files, and the fraction that may be bad.

    Raises:
      UserError: there is no such source, or nothing in it.
    """
    from ldm_jax.core.config import build, fields_of
    from ldm_jax.data import SOURCES

    what = "config.data.source"
    settings = config.data.source.to_dict()
    if "name" not in settings:
        return build(what, SOURCES, settings), 0.0  # which says what is legal
    parameter = fields_of(lookup(f"{what}.name", SOURCES, settings["name"])).get("max_bad_fraction")
    if parameter is None:
        return build(what, SOURCES, settings), 0.0
    allowed = settings.get("max_bad_fraction")
    allowed = parameter.default if allowed is None else allowed
    return build(what, SOURCES, {**settings, "max_bad_fraction": 1.0}), allowed
