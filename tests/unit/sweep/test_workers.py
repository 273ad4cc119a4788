"""Jobs that end in other ways than they should."""

import os
import signal
import threading
import time

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.shares import make_shares
from ldm_jax.sweep.workers import Job, run_jobs


def write(path, text):
    path.write_text(text)


def say(sentence):
    return sentence


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path):
    path.touch()
    time.sleep(60)


def test_jobs_are_done_in_their_order_as_shares_are_free(tmp_path):
    path = tmp_path / "last"
    run_jobs([Job(text, write, (path, text)) for text in "ab"], make_shares(1))
    assert path.read_text() == "b"


def test_what_a_job_says_is_told():
    with pytest.raises(UserError) as told:
        run_jobs([Job("job", say, ("no room.",))], make_shares(1))
    assert str(told.value) == "sweep: job: no room. (0 not begun; the same command goes on)."


def test_a_killed_process_is_told_and_nothing_begins_after_it():
    jobs = [Job(f"job {number}", die, (number,)) for number in range(3)]
    with pytest.raises(UserError) as told:
        run_jobs(jobs, make_shares(1))
    assert str(told.value) == (
        "sweep: job 0: its process ended with status -9 (2 not begun; the same command goes on)."
    )


def test_sigterm_ends_those_that_run(tmp_path):
    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop)
    stopper.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
        run_jobs([Job("sleep", sleep, (tmp_path / "begun",))], make_shares(1))
    stopper.join()
    assert time.monotonic() - began < 55  # it did not sleep to its end
    assert signal.getsignal(signal.SIGTERM) == before
