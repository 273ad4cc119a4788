"""How much to compress: LDM-f compared by quality over training compute, and over throughput.

python experiments/compression/run.py --size small --data TFDS_DIR --out experiments/compression
Writes results.jsonl (a line a point), table.md and quality.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues: points that have a
line are not run, and one that was cut goes on.
"""

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
from absl import logging
from measure import measure_point
from points import DATASETS, SIZES, make_points
from report import fill_page, write_report

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.features import file_sha256
from ldm_jax.evaluation.inception_features import SHA256
from ldm_jax.sweep.judge import make_classifier
from ldm_jax.sweep.results import read_rows
from ldm_jax.sweep.runner import run_sweep
from ldm_jax.sweep.shares import make_shares
from ldm_jax.sweep.workers import Job, run_jobs

DOMAIN = "Fashion-MNIST"
# Of the judge: steps of training, images that it learns from, images that its accuracy is of.
CLASSIFIER = {"smoke": (2, 64, 32), "small": (1500, 50_000, 10_000)}


def main() -> None:
    """Measures what is missing, then writes the page."""
    arguments = _arguments()
    workdir, out = Path(arguments.workdir), Path(arguments.out or arguments.workdir)
    logging.set_verbosity(logging.INFO)
    if len(os.sched_getaffinity(0)) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)
    where = (arguments.data, arguments.dataset, Path(arguments.first_stages))
    extractor, judge = make_judge(arguments)
    results = out / "results.jsonl"
    rows = run_sweep(
        make_points(arguments.size, arguments.seeds, judge, *where),
        functools.partial(measure_point, extractor=extractor),
        results,
        workdir,
        arguments.processes,
    )
    text = write_report(read_rows(results), out)  # with the seeds of earlier calls
    if (out / "README.md").is_file():
        fill_page(out / "README.md", arguments.size, text)
    print(json.dumps({f"{row['name']}, seed {row['seed']}": row["scores"] for row in rows}))


def make_judge(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Returns an extractor, by name and weights, and what tells it from others.

    The classifier of the domain is trained where there is none.
    """
    if arguments.size == "paper":
        weights = {"weights": arguments.inception} if arguments.inception else {}
        return {"name": "inception", **weights}, f"inception {SHA256[:16]}"
    path = Path(arguments.workdir) / "classifier.safetensors"
    job = Job("the classifier", _train_judge, (arguments.size, arguments.data, path))
    if not path.is_file() and arguments.processes == 1:
        job.work(*job.arguments)
    elif not path.is_file():
        run_jobs([job], make_shares(1))  # this process leaves the GPUs to the others
    return {"name": "classifier", "weights": str(path)}, f"{DOMAIN} {file_sha256(path)[:16]}"


def _train_judge(size: str, data: str, path: Path) -> None:
    config = make_points(size, [0], "", data)[0].make_config()
    make_classifier(config, path, DOMAIN, *CLASSIFIER[size])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", required=True, choices=SIZES)
    parser.add_argument("--data", required=True, help="TFDS folder; for `paper` one of images")
    parser.add_argument("--workdir", default="runs/compression")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--processes", type=int, default=1, help="points at once")
    parser.add_argument("--dataset", default="imagenet", choices=DATASETS, help="for `paper`")
    parser.add_argument(
        "--first_stages", default="first_stages", help="for `paper`: folder of f2, f4, …, f32"
    )
    parser.add_argument("--inception", help="for `paper`: file of the FID's network")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
