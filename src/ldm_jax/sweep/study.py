"""A study as one command: its points are run, then its page is written.

An experiment is a folder with a `run.py` that makes a `Study` and hands it to `main`.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.endings import ending
from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.evaluation.extractors import EXTRACTORS
from ldm_jax.evaluation.features import file_sha256
from ldm_jax.evaluation.inception_features import SHA256
from ldm_jax.sweep.judge import make_classifier
from ldm_jax.sweep.page import fill_page
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import Row, read_rows
from ldm_jax.sweep.runner import run_sweep
from ldm_jax.sweep.shares import make_shares
from ldm_jax.sweep.workers import Job, run_jobs

SIZES = ("smoke", "small", "paper")
# Of a domain's judge: steps of training, images that it learns from, images that it is tested on.
_CLASSIFIER = {"smoke": (2, 64, 32), "small": (1500, 50_000, 10_000)}


class Domain(NamedTuple):
    """Data on which a small classifier judges images, in the place of Inception.

    Attributes:
      name: in reports.
      config: a file of the data's.
    """

    name: str
    config: str


class Study(NamedTuple):
    """What is compared, how it is measured, and how it is shown.

    Attributes:
      folder: of the experiment, where its page lies.
      about: what the command says of itself.
      make_points: (the command's arguments, what tells the judge from others) -> points.
      measure: (point, its folder, arguments=…, extractor=…) -> what was found, as JSON, with
        `scores` by name. A function of a module, since other processes import it.
      write_report: (rows, folder) -> table and sentences in Markdown; plots go into the folder.
      domain: of its judge at the sizes `smoke` and `small`; None where no judge is needed.
      add_arguments: declares further flags.
    """

    folder: Path
    about: str
    make_points: Callable[[argparse.Namespace, str], list[Point]]
    measure: Callable[..., Mapping[str, Any]]
    write_report: Callable[[Sequence[Row], Path], str]
    domain: Domain | None = None
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None


def main(study: Study) -> None:
    """Runs a study's command and prints the scores; a mistake of the user ends it with one line."""
    arguments = parse_arguments(study)
    _use_both_cores()
    try:
        rows = run_study(study, arguments)
    except BaseException as error:
        told = ending(error)
        if told is None:
            raise
        sentence, status = told
        sys.stderr.write(f"{study.folder.name}: {sentence}\n" if sentence else "")
        sys.exit(status)
    scores = {f"{row['name']}, seed {row['seed']}": row["scores"] for row in rows}
    sys.stdout.write(json.dumps(scores) + "\n")


def parse_arguments(study: Study, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the arguments of a study's command, by default those of this process."""
    parser = argparse.ArgumentParser(
        description=study.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", required=True, choices=SIZES)
    add("--data", help="TFDS folder; for `paper` a folder of images")
    add("--workdir", default="runs/studies", help="of all studies, which share what they train")
    add("--out", help="folder of the results, by default WORKDIR/STUDY/SIZE")
    add("--seeds", type=int, nargs="*", default=[0])
    add("--processes", type=int, default=1, help="points at once")
    add("--inception", help="for `paper`: file of the FID's network")
    study.add_arguments(parser)
    return parser.parse_args(arguments)


def check_given(arguments: argparse.Namespace, flag: str) -> None:
    """Raises UserError unless a flag is given with the size `paper`, and with no other."""
    value = getattr(arguments, flag)
    if (arguments.size == "paper") != bool(value):
        raise UserError(f"--{flag}={value}: legal with --size=paper, which needs it.")


def run_study(study: Study, arguments: argparse.Namespace) -> list[Row]:
    """Measures what is missing, writes table, plots and page, and returns the rows of all points.

    Raises:
      UserError: what is asked for does not exist, or a point failed.
    """
    workdir = Path(arguments.workdir)
    own = workdir / study.folder.name
    out = Path(arguments.out or own / arguments.size)
    page = out / "README.md"
    if page.is_file():
        fill_page(page, arguments.size, None)  # raises before anything is measured
    logging.set_verbosity(logging.INFO)
    extractor, judge = _make_judge(study.domain, arguments, workdir)
    points = study.make_points(arguments, judge)
    measure = functools.partial(study.measure, arguments=arguments, extractor=extractor)
    results = out / "results.jsonl"
    rows = run_sweep(points, measure, results, own, arguments.processes)
    text = study.write_report([*_other_seeds(rows, read_rows(results)), *rows], out)
    (out / "table.md").write_text(text)
    if page.is_file():
        fill_page(page, arguments.size, text)
    return rows


def _use_both_cores() -> None:
    """A batch split over two CPU devices keeps two cores busier than one device does."""
    if len(os.sched_getaffinity(0)) >= 2:
        jax.config.update("jax_num_cpu_devices", 2)


def _other_seeds(wanted: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of earlier calls that differ from wanted ones in their seed alone.

    Others, such as those of another number of images, belong to another table.
    """
    alike, seeds = [_apart_from_seed(row) for row in wanted], {row["seed"] for row in wanted}
    return [row for row in rows if row["seed"] not in seeds and _apart_from_seed(row) in alike]


def _apart_from_seed(row: Mapping[str, Any]) -> list[Any]:
    return [row[part] for part in ("name", "config", "overrides", "settings")]


def _make_judge(
    domain: Domain | None, arguments: argparse.Namespace, workdir: Path
) -> tuple[dict[str, Any] | None, str]:
    """Returns an extractor, by name and weights, and what tells it from others.

    The classifier of the domain is trained where there is none.
    """
    if domain is None:
        return None, ""
    if arguments.size == "paper":
        weights = {"weights": arguments.inception} if arguments.inception else {}
        extractor = {"name": "inception", **weights}
        build("extractor", EXTRACTORS, extractor)  # raises before anything is trained
        return extractor, f"inception {SHA256[:16]}"
    path = workdir / f"{domain.name}-classifier-{arguments.size}.safetensors"
    job = Job("the classifier", _train_judge, (domain, arguments.size, arguments.data, path))
    if not path.is_file() and arguments.processes == 1:
        sentence = job.work(*job.arguments)
        if sentence is not None:
            raise UserError(sentence)
    elif not path.is_file():
        run_jobs([job], make_shares(1))  # this process leaves the GPUs to the others
    return {"name": "classifier", "weights": str(path)}, f"{domain.name} {file_sha256(path)[:16]}"


def _train_judge(domain: Domain, size: str, data: str | None, path: Path) -> str | None:
    """Trains the classifier in whatever process; returns a sentence where it cannot be."""
    try:
        config = load_config(domain.config)
        if data is not None:
            config.data.source.path = data
        make_classifier(config, path, domain.name, *_CLASSIFIER[size])
    except UserError as error:
        return str(error)
    return None
