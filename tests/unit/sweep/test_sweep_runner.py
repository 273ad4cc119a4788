"""Sweeps of small functions in place of trainings."""

import os

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.lock import folder_lock
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.results import read_rows
from ldm_jax.sweep.runner import run_point, run_sweep

CONFIG = """
from ldm_jax.core.defaults import base_config

def get_config():
    return base_config()
"""


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return [
        Point(name, str(path), seed, overrides={"train.steps": steps})
        for name, steps in (("short", 2), ("long", 20))
        for seed in (0, 1)
    ]


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "results.jsonl", tmp_path / "work"


def counted(point, folder):
    """Says how often it was called in its folder, as a training that goes on."""
    calls = folder / "calls"
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    return {"score": point.make_config().train.steps + point.seed, "calls": len(calls.read_text())}


def test_every_point_has_a_row_with_what_made_it(points, folders):
    results, workdir = folders
    rows = run_sweep(points, counted, results, workdir)
    assert rows == read_rows(results)
    assert [(row["name"], row["seed"], row["score"]) for row in rows] == [
        ("short", 0, 2),
        ("short", 1, 3),
        ("long", 0, 20),
        ("long", 1, 21),
    ]
    assert rows[2]["overrides"] == {"train.steps": 20}
    assert {"ldm_jax", "code_sha256", "jax", "device", "devices", "date"} <= set(rows[0]["made_by"])
    assert rows[0]["seconds_of_last_call"] >= 0


def test_what_has_a_row_is_not_run_and_a_changed_point_is_another(points, folders, tmp_path):
    results, workdir = folders
    run_sweep(points[:2], counted, results, workdir)
    rows = run_sweep(points[:3], counted, results, workdir)
    assert [row["calls"] for row in rows] == [1, 1, 1]
    assert len(read_rows(results)) == 3
    changed = Point("short", points[0].config, 0, overrides={"train.steps": 3})
    (row,) = run_sweep([changed], counted, results, workdir)
    assert (row["score"], row["calls"]) == (3, 1)
    assert len(read_rows(results)) == 4


def test_a_point_that_was_cut_finds_its_folder_again(points, folders):
    results, workdir = folders

    def cut(point, folder):
        counted(point, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(points[:1], cut, results, workdir)
    assert read_rows(results) == []
    (row,) = run_sweep(points[:1], counted, results, workdir)
    assert row["calls"] == 2


def test_a_point_is_run_by_one_process_at_a_time(points, folders):
    results, workdir = folders
    point = points[0]
    folder = workdir / f"short-0-{point.key()[:8]}"
    with folder_lock(folder, "--workdir=x", "here"), pytest.raises(UserError) as told:
        run_point(point.key(), point, counted, results, workdir)
    assert str(told.value) == (
        f"--workdir={workdir}: another run is measuring short, seed 0 there. Legal: wait until it "
        "ends, or another --workdir."
    )
    run_point(point.key(), point, counted, results, workdir)
    run_point(point.key(), point, counted, results, workdir)  # found done
    assert len(read_rows(results)) == 1


def seen(point, folder):
    """Fails for one of the points; tells what it was given of the machine."""
    if point.name == "long" and point.seed == 0:
        raise UserError("no room for this one.")
    return {"cores": sorted(os.sched_getaffinity(0)), "process": os.getpid()}


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two cores, or there is nothing to share"
)
def test_processes_share_the_machine_and_a_failure_is_told(points, folders, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    results, workdir = folders
    with pytest.raises(UserError) as told:
        run_sweep(points[:3], seen, results, workdir, processes=2)
    assert str(told.value) == (
        "sweep: long, seed 0: no room for this one. (0 not begun; the same command goes on)."
    )
    rows = read_rows(results)
    assert {(row["name"], row["seed"]) for row in rows} == {("short", 0), ("short", 1)}
    assert not set(rows[0]["cores"]) & set(rows[1]["cores"])
    assert len({os.getpid(), *(row["process"] for row in rows)}) == 3
