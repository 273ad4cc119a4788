"""The files that a run writes for people, across interruptions."""

import json

from ldm_jax.train.hooks import RunLog


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
