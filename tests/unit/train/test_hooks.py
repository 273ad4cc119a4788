"""The files that a run writes for people, across interruptions."""

import json

import pytest

from ldm_jax.train.hooks import QuarantineLog, RunLog


def steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_resumed_log_drops_what_will_be_written_again_and_torn_lines(tmp_path):
    log = RunLog(tmp_path / "run", total_steps=10, start_step=0, batch_size=4)
    for step in (2, 4, 6, 8):
        log.scalars(step, {"loss": 1.0}, steps_per_second=1.0)
    log.close()
    file = tmp_path / "run" / "metrics.jsonl"
    with file.open("a") as tail:
        tail.write('{"step": 10, "lo')  # killed in the middle of a line
    log = RunLog(tmp_path / "run", total_steps=10, start_step=4, batch_size=4)
    assert steps(tmp_path / "run") == [2, 4]
    log.scalars(6, {"loss": 0.5}, steps_per_second=1.0)
    log.close()
    assert steps(tmp_path / "run") == [2, 4, 6]
    assert [path.name for path in file.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_disk_that_is_full_for_tensorboard_is_no_endless_wait(tmp_path, monkeypatch):
    """Its thread dies of it; whoever then filled its queue would wait for ever."""
    log = RunLog(tmp_path / "run", total_steps=10, start_step=0, batch_size=4)

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._writer, "flush", fail)
    with pytest.raises(OSError, match="No space left"):
        log.scalars(1, {"loss": 1.0}, steps_per_second=1.0)
    monkeypatch.undo()
    log.close()


def test_the_list_of_bad_files_grows_and_outlives_the_process(tmp_path, caplog):
    found = {}
    log = QuarantineLog(tmp_path, found)
    log.look()
    path = tmp_path / "quarantine.jsonl"
    assert not path.exists()
    found["b.png"] = "torn"
    log.look()
    assert path.read_text() == '{"file": "b.png", "reason": "torn"}\n'
    log = QuarantineLog(tmp_path, {"a.png": "1x1 pixels"})
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["file"], row["reason"]) for row in rows] == [
        ("a.png", "1x1 pixels"),
        ("b.png", "torn"),
    ]
    assert caplog.messages == [f"1 files were quarantined; see {path}"]
    QuarantineLog(tmp_path / "none", {}).close()
    assert not (tmp_path / "none").exists()
