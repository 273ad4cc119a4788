"""The table of docs/scaling.md: published models on slices of TPUs, planned one row at a time.

  python benchmarks/scaling.py                    # all rows that are missing; hours on two cores
  python benchmarks/scaling.py --rows sd_v1@v5e-256
  python benchmarks/scaling.py --fixed_batch      # without the search for the largest batch
  python benchmarks/scaling.py --table            # only writes the table anew

Needs `pip install "ldm-jax[tpu-plan]"` and no TPU. A row is `ldm-jax plan … --json` in a process of
its own; what it prints is kept as a line of docs/scaling.jsonl as soon as it is there, and rows
whose command is the same as that line's are not planned again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
START, END = "<!-- table: written by benchmarks/scaling.py -->", "<!-- end of table -->"


class Slice(NamedTuple):
    """A TPU slice by the name that Google gives it, and the mesh that it is planned with."""

    topology: str
    mesh: str


MODELS = {"sd_v1": "SD v1", "txt2img_1p4b": "txt2img-1p4B"}
# Google counts v5p by cores, two a chip: a v5p-64 has 32 chips. 95 GiB hold either model whole.
SLICES = {
    "v5e-256": Slice("v5e:16x16", "16,16,1"),
    "v5p-64": Slice("v5p:2x4x4", "32,1,1"),
    "v6e-256": Slice("v6e:16x16", "16,16,1"),
}
BATCH = 8  # on 256 chips the 2,048 of Stable Diffusion
# Networks compute in bfloat16 over float32 parameters; one micro-batch, so that loops hide nothing;
# nothing is recomputed.
OVERRIDES = (
    "--config.task.model.remat=none",
    "--config.task.model.dtype=bfloat16",
    "--config.task.conditioner.dtype=bfloat16",
    "--config.task.first_stage.model.dtype=bfloat16",
    "--config.train.accumulation=1",
    f"--config.sample.per_device_batch={BATCH}",
)
HEAD = (
    "model",
    "slice",
    "mesh",
    "batch",
    "memory",
    "largest batch",
    "PFLOPs a step",
    "sent a step",
    "training, images/s",
    "limited by",
    "sampling, images/s",
)


def rows() -> dict[str, list[str]]:
    """Returns the arguments of `ldm-jax` for every row, by its name."""
    return {
        f"{model}@{name}": [
            "plan",
            "--config",
            f"configs/published/{model}.py",
            *("--topology", where.topology, "--mesh", where.mesh, "--batch", str(BATCH)),
            *OVERRIDES,
        ]
        for model in MODELS
        for name, where in SLICES.items()
    }


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the lines that are there, by the name of their row; the last one counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["row"]: line for line in map(json.loads, lines)}


def plan(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the line of one row; compiling it takes up to an hour on two cores.

    Raises:
      RuntimeError: the command printed no plan, only the error that is on the screen.
    """
    command = [sys.executable, "-m", "ldm_jax.cli.main", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:  # a plan that does not fit is printed all the same
        raise RuntimeError(f"{name}: no plan (exit status {done.returncode})")
    versions = {package: metadata.version(package) for package in ("jax", "libtpu")}
    return {
        "row": name,
        "command": command_line(arguments),
        "versions": versions,
        "plan": json.loads(done.stdout),
    }


def command_line(arguments: Sequence[str]) -> str:
    """Returns what to type for a row."""
    return shlex.join(["ldm-jax", *arguments])


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns the lines as Markdown, one row each, in the order of `rows`."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for name in rows():
        if name in found:
            lines.append("| " + " | ".join(_cells(name, found[name]["plan"])) + " |")
    return "\n".join(lines)


def _cells(name: str, plan: dict[str, Any]) -> list[str]:
    model, where = name.split("@")
    step, rates = plan["programs"]["train_step"], plan["images_per_second"]
    memory = plan["memory_bytes"] / 2**30
    cells = [
        MODELS[model],
        f"{where}, {plan['devices']} chips",
        " × ".join(map(str, plan["mesh"].values())),
        str(step["batch_per_device"]),
    ]
    largest = plan["largest_batch"]
    best = "" if largest is None else str(largest["batch"])
    if "peak_bytes" not in step:
        return [*cells, f"does not fit {memory:.1f} GiB", best, *[""] * 5]
    return [
        *cells,
        f"{step['peak_bytes'] / 2**30:.1f} of {memory:.1f} GiB",
        best,
        f"{step['flops'] * plan['devices'] / 1e15:.2f}",
        f"{sum(x['bytes'] for x in step['collectives'].values()) / 2**30:.2f} GiB",
        _rate(rates["train"]),
        step["limited_by"],
        _rate(rates["sample"]) if "sample" in rates else "",
    ]


def _rate(rate: dict[str, float | None]) -> str:
    """Returns '≤ 1,234', with the compiler's estimate where there is one."""
    estimate = rate["estimate"]
    return f"≤ {rate['bound']:,.0f}" + ("" if estimate is None else f" ({estimate:,.0f})")


def write_table(page: Path, found: dict[str, dict[str, Any]]) -> None:
    """Puts the table between its marks in a page."""
    before, rest = page.read_text().split(START)
    _, after = rest.split(END)
    page.write_text(f"{before}{START}\n{table(found)}\n{END}{after}")


def main() -> None:
    """Plans the rows that are missing, and writes the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(rows()), default=list(rows()))
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of scaling.md and .jsonl")
    parser.add_argument("--fixed_batch", action="store_true", help="leave out the largest batch")
    parser.add_argument("--table", action="store_true", help="plan nothing")
    parser.add_argument("--commands", action="store_true", help="only print what would be run")
    arguments = parser.parse_args()
    lines = arguments.docs / "scaling.jsonl"
    for name in arguments.rows:
        searched = rows()[name]
        wanted = [*searched, *(["--fixed_batch"] if arguments.fixed_batch else [])]
        if arguments.commands:
            print(command_line(wanted))
            continue
        kept = read(lines).get(name, {}).get("command")
        if arguments.table or kept in (command_line(searched), command_line(wanted)):
            continue
        print(f"{name}: {command_line(wanted)}", file=sys.stderr)
        with lines.open("a") as file:
            file.write(json.dumps(plan(name, wanted)) + "\n")
        write_table(arguments.docs / "scaling.md", read(lines))
    if not arguments.commands:
        write_table(arguments.docs / "scaling.md", read(lines))


if __name__ == "__main__":
    main()
