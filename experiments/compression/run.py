"""How much to compress: LDM-f compared by quality over training compute, and over throughput.

python experiments/compression/run.py --size small --data TFDS_DIR --out experiments/compression
Writes results.jsonl (a line a point), table.md and quality.png into --out, and fills the page
there, if there is one; prints JSON last. The same command again continues: points that have a
line are not run, and one that was cut goes on.
"""

import argparse
from pathlib import Path

from measure import measure_point
from points import DATASETS, OURS, make_points
from report import write_report

from ldm_jax.sweep.point import Point
from ldm_jax.sweep.study import Domain, Study, main


def make(arguments: argparse.Namespace, judge: str) -> list[Point]:
    """Returns the points that the command asks for."""
    where = (arguments.data, arguments.dataset, Path(arguments.first_stages))
    return make_points(arguments.size, arguments.seeds, judge, *where)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what the size `paper` takes."""
    add = parser.add_argument
    add("--dataset", default="imagenet", choices=DATASETS, help="for `paper`")
    add("--first_stages", default="first_stages", help="for `paper`: folder of f2, f4, …, f32")


STUDY = Study(
    Path(__file__).parent,
    __doc__,
    make,
    measure_point,
    write_report,
    Domain("Fashion-MNIST", f"{OURS}:4"),
    add_arguments,
)

if __name__ == "__main__":
    main(STUDY)
