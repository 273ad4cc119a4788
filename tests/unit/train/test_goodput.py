"""The share of wall time in steps that count, by a clock that tells what it is told."""

import contextlib
import json

import pytest

from ldm_jax.train.goodput import Goodput, Spent, spent_before


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_only_steps_count(clock):
    goodput = Goodput(clock)
    clock.now += 6  # building, restoring, compiling within the first call
    goodput.stepped()
    clock.now += 3
    goodput.stepped()
    clock.now += 1
    assert goodput.row() == {"goodput": 0.4, "useful_seconds": 4.0, "wall_seconds": 10.0}
    with goodput.aside():  # a save
        clock.now += 5
    with goodput.aside():  # a grid, right after it
        clock.now += 1
    assert goodput.row() == {"goodput": 0.25, "useful_seconds": 4.0, "wall_seconds": 16.0}
    clock.now += 4
    assert goodput.row() == {"goodput": 0.4, "useful_seconds": 8.0, "wall_seconds": 20.0}


def test_a_failure_aside_leaves_the_clock_running(clock):
    goodput = Goodput(clock)
    goodput.stepped()
    clock.now += 2
    with contextlib.suppress(OSError), goodput.aside():
        clock.now += 1
        raise OSError("full")
    clock.now += 1
    assert goodput.row() == {"goodput": 0.75, "useful_seconds": 3.0, "wall_seconds": 4.0}


def test_an_evaluation_before_the_first_step_makes_no_steps(clock):
    goodput = Goodput(clock)
    with goodput.aside():
        clock.now += 5
    clock.now += 5  # compiling
    goodput.stepped()
    clock.now += 10
    assert goodput.row()["goodput"] == 0.5


def test_no_time_at_all(clock):
    assert Goodput(clock).row()["goodput"] == 0.0


def test_earlier_processes_go_on(clock):
    goodput = Goodput(clock)
    goodput.go_on(Spent(useful=10.0, wall=40.0))
    goodput.stepped()
    clock.now += 10
    assert goodput.row() == {"goodput": 0.4, "useful_seconds": 20.0, "wall_seconds": 50.0}


def write(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows))


def row(step, useful, wall):
    return json.dumps({"step": step, "useful_seconds": useful, "wall_seconds": wall})


def test_steps_that_are_done_again_do_not_count_but_their_time_has_passed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [row(5, 1.0, 4.0), row(10, 2.0, 6.0), row(15, 3.0, 9.0), '{"step": 20, "usef'])
    assert spent_before(path, 10) == Spent(2.0, 9.0)
    assert spent_before(path, 15) == Spent(3.0, 9.0)
    assert spent_before(path, 0) == Spent(0.0, 9.0)


def test_a_run_from_before_the_rows_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert spent_before(path, 5) == Spent()
    write(path, ['{"step": 5, "loss": 1.0}', "[]", "3"])
    assert spent_before(path, 5) == Spent()
