"""benchmarks/scaling.py without its compilations: commands, what is kept, and the table."""

import argparse
import math
import sys
from pathlib import Path

import pytest

from ldm_jax.cli import plan as plan_command
from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.train.preflight import check_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("scaling")
    sys.modules.pop("scaling", None)


def a_plan(devices, **step):
    program = {
        "batch_per_device": 4,
        "flops": 2e12,
        "limited_by": "arithmetic",
        "collectives": {"all-gather": {"count": 2, "bytes": 2**30}},
        **step,
    }
    return {
        "devices": devices,
        "mesh": {"data": 16, "fsdp": 16, "tensor": 1},
        "memory_bytes": 16 * 2**30,
        "programs": {"train_step": program},
        "images_per_second": {
            "train": {"bound": 1234.5, "estimate": None},
            "sample": {"bound": 99.0, "estimate": 50.0},
        },
        "largest_batch": {"batch": 6},
    }


def test_every_row_is_a_command_whose_mesh_fits_its_slice(scaling):
    rows = scaling.rows()
    assert len(rows) == 6
    parser = argparse.ArgumentParser()
    plan_command.add_arguments(parser)
    for _, *arguments in rows.values():
        parsed, overrides = parser.parse_known_args(arguments)
        chips = math.prod(map(int, parsed.topology.partition(":")[2].split("x")))
        assert math.prod(map(int, parsed.mesh.split(","))) == chips
        config = load_config(str(ROOT / parsed.config))
        apply_overrides(config, overrides)
        check_config(config)


def test_rows_are_kept_and_not_planned_again(scaling, monkeypatch, tmp_path):
    (tmp_path / "scaling.md").write_text(f"before\n{scaling.START}\n{scaling.END}\nafter\n")
    planned = []

    def plan(name, arguments):
        planned.append(name)
        found = a_plan(256, peak_bytes=8 * 2**30)
        return {"row": name, "command": scaling.command_line(arguments), "plan": found}

    monkeypatch.setattr(scaling, "plan", plan)

    def run(*rows):
        command = ["scaling.py", "--docs", str(tmp_path), "--rows", *rows]
        monkeypatch.setattr(sys, "argv", command)
        scaling.main()

    run("sd_v1@v6e-256")
    run("sd_v1@v5e-256", "sd_v1@v6e-256")
    assert planned == ["sd_v1@v6e-256", "sd_v1@v5e-256"]
    page = (tmp_path / "scaling.md").read_text()
    assert page.startswith(f"before\n{scaling.START}\n| model | slice |")
    assert page.endswith(f"|\n{scaling.END}\nafter\n")
    found = [line for line in page.splitlines() if line.startswith("| SD")]
    cells = "| 16 × 16 × 1 | 4 | 8.0 of 16.0 GiB | 6 | 0.51 | 1.00 GiB | ≤ 1,234 | arithmetic |"
    assert found == [
        f"| SD v1 | {name}, 256 chips {cells} ≤ 99 (50) |" for name in ("v5e-256", "v6e-256")
    ]
    run("sd_v1@v6e-256", "sd_v1@v5p-64", "--fixed_batch")  # what is searched already has more
    run("sd_v1@v6e-256", "sd_v1@v5p-64")  # what was not is planned again
    assert planned[2:] == ["sd_v1@v5p-64", "sd_v1@v5p-64"]
    # Another command is another row.
    monkeypatch.setattr(scaling, "BATCH", 2)
    run("sd_v1@v5e-256")
    assert planned[-1] == "sd_v1@v5e-256"
    assert len(planned) == 5
    assert len((tmp_path / "scaling.jsonl").read_text().splitlines()) == 5


def test_a_model_that_does_not_fit_has_a_row(scaling):
    found = {"sd_v1@v5e-256": {"plan": a_plan(256)}}
    assert "| does not fit 16.0 GiB | 6 |" in scaling.table(found)


def test_the_page_has_a_place_for_the_table_and_lines_that_fit(scaling):
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert page.count(scaling.START) == page.count(scaling.END) == 1
    lines = scaling.read(ROOT / "docs" / "scaling.jsonl")
    between = page.split(scaling.START)[1].split(scaling.END)[0].strip()
    assert between == (scaling.table(lines) if lines else "")
