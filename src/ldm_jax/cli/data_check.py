"""`ldm-jax data check PATH`: what the data are, and whether a run would take them."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ldm_jax.cli import data_source
from ldm_jax.cli.progress import Progress
from ldm_jax.core.checks import UserError, shortened

EXAMPLES = """\
  ldm-jax data check photos/ --image_size 256 --batch_size 64
  ldm-jax data check emoji/ --config configs/emoji_text.py
  ldm-jax data check emoji/ --config.data.source.class_column=category --json
Every image is read. The exit status is 0 if a training run would take the data, else 2.
"""
DETAILS = data_source.PATHS
_MAX_LINES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    data_source.add_arguments(parser)
    add("--image_size", metavar="N", type=int, help="counts smaller images (default: the config's)")
    add("--batch_size", metavar="N", type=int, help="tells steps per epoch (default: the config's)")
    add("--json", action="store_true", help="one JSON object, for programs")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Prints the facts; raises UserError for the first reason to refuse the data."""
    try:
        facts = _facts(arguments, overrides)
    except UserError as error:
        if arguments.json:
            print(json.dumps({"usable": False, "problems": [str(error)]}))
        raise
    text = json.dumps(facts) if arguments.json else "\n".join(_lines(facts))
    print(text.encode(errors="backslashreplace").decode())  # file names may be any bytes
    if facts["problems"]:
        first, *others = facts["problems"]
        raise UserError(f"{first}{f' And {len(others)} more, above.' if others else ''}")


def _facts(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from ldm_jax.core.checks import check_positive
    from ldm_jax.core.config import build
    from ldm_jax.data import TOKENIZERS
    from ldm_jax.data.report import look_through

    config = data_source.read_config(arguments, overrides)
    sizes = {"image_size": arguments.image_size, "batch_size": arguments.batch_size}
    for flag, value in sizes.items():
        if value is not None:
            check_positive(f"--{flag}", [value])
    if arguments.config is not None:
        sizes["image_size"] = sizes["image_size"] or config.data.get("image_size")
        sizes["batch_size"] = sizes["batch_size"] or config.train.batch_size
    source, allowed = data_source.open_source(config)
    tokenizer = config.data.get("tokenizer")
    if tokenizer:
        tokenizer = build("config.data.tokenizer", TOKENIZERS, tokenizer)
    with Progress("check", None, "image") as progress:
        facts = look_through(
            source,
            tokenizer=tokenizer,
            num_threads=arguments.num_threads,
            progress=progress,
            **sizes,
        )
    held_out = config.data.get("holdout") or 0
    if held_out and sizes["batch_size"]:
        facts["steps_per_epoch"] = max(len(source) - held_out, 0) / sizes["batch_size"]
    problems = _problems(facts, source, allowed)
    if arguments.config is not None and not problems:
        from ldm_jax.train.data_refusal import refusal

        problems += filter(None, [refusal(config, source, sizes["batch_size"], _largest(facts))])
    kind = {"source": config.data.source.name, "path": config.data.source.get("path")}
    return {**kind, **facts, "usable": not problems, "problems": problems}


def _largest(facts: dict[str, Any]) -> dict[str, int]:
    """Returns the largest class of images and of maps, where there are any."""
    seen = {"class": facts["classes"], "segmentation": facts["segmentation"]}
    return {name: max(row["class"] for row in rows) for name, rows in seen.items() if rows}


def _problems(facts: dict[str, Any], source: Any, allowed: float) -> list[str]:
    """Returns why no run would take the data."""
    problems, total = [], facts["examples"]
    if len(facts["bad_files"]) > allowed * total:
        problems.append(source.too_many_bad(allowed))
    batch_size = facts["batch_size"]
    if batch_size is not None and batch_size > total:
        problems.append(
            f"--batch_size={batch_size}: more than the {total} examples. Legal: at most {total}."
        )
    return problems


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yields the report, a line for each kind of fact that there is."""
    where = f" {facts['path']}" if facts["path"] else ""
    yield f"source          {facts['source']}{where}"
    yield f"images          {facts['examples']:,}, of which {facts['readable']:,} can be read"
    bad = [
        f"{_short(file['path'], facts)}: {shortened(file['reason'])}" for file in facts["bad_files"]
    ]
    yield from _listing(f"bad files       {len(bad):,}", bad)
    for name in ("width", "height", "shorter_side", "aspect_ratio"):
        if facts[name]:
            yield f"{name.replace('_', ' '):<15} {_range(facts[name])}"
    if facts["image_size"]:
        smaller = facts["smaller_than_image_size"]
        yield f"smaller         {smaller:,} than {facts['image_size']} pixels"
    yield "channels        " + ", ".join(f"{n:,} {kind}" for kind, n in facts["channels"].items())
    yield from _label_lines(facts)
    duplicates = facts["duplicates"]
    groups = [" = ".join(_short(n, facts) for n in names) for names in duplicates["groups"]]
    yield from _listing(f"duplicates      {duplicates['images']:,}", groups)
    if facts["batch_size"]:
        yield (f"steps per epoch {facts['steps_per_epoch']:,.1f} of {facts['batch_size']:,} images")
    yield from _listing("problems", facts["problems"]) if facts["problems"] else ["usable"]


def _label_lines(facts: dict[str, Any]) -> Iterator[str]:
    captions, tokens, masks, boxes = (
        facts[name] for name in ("captions", "tokens", "mask_coverage", "boxes")
    )
    if captions:
        yield (
            f"captions        {captions['different']:,} different, {captions['empty']:,} empty; "
            f"words: {_range(captions['words'])}"
        )
    if tokens:
        yield f"tokens          {tokens['cut']:,} captions are cut at {tokens['length']} tokens"
    if facts["classes"]:
        classes = [f"{c['class']} {c['name'] or ''}: {c['images']:,}" for c in facts["classes"]]
        yield from _listing(f"classes         {len(classes):,}", classes)
    if masks:
        yield f"masked part     {_range(masks)}; {masks['empty']:,} empty, {masks['full']:,} full"
    if facts["segmentation"]:
        parts = [
            f"{c['class']}: {c['area']:.1%} of the area, in {c['images']:,} images"
            for c in facts["segmentation"]
        ]
        yield from _listing(f"map classes     {len(parts):,}", parts)
    if boxes:
        counts = ", ".join(f"{n:,} of class {k}" for k, n in boxes["classes"].items())
        yield f"boxes           per image: {_range(boxes['per_image'])}; {counts or 'none'}"


def _short(name: str, facts: dict[str, Any]) -> str:
    """Returns the name of an example without the path that all share, cut if it is very long."""
    return shortened(name.removeprefix(f"{str(facts['path']).rstrip('/')}/"))


def _range(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {values[name]:g}" for name in ("min", "median", "max"))


def _listing(title: str, lines: list[str]) -> Iterator[str]:
    yield title
    yield from (f"  {line}" for line in lines[:_MAX_LINES])
    if len(lines) > _MAX_LINES:
        yield f"  and {len(lines) - _MAX_LINES:,} more, which --json lists"
