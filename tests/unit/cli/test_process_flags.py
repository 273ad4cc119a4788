"""The flags by which a command is one of several processes."""

import argparse
import os

import pytest

from ldm_jax.cli import processes
from ldm_jax.cli.endings import ending, line
from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.parallel import multihost

TRAIN = ["train", "--config", "tests/e2e/tiny.py", "--workdir", "not_made"]


def parsed(*flags):
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    return parser.parse_args(flags)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)


ALL = "Legal: all three, or --distributed, which finds what is not given."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=0"], "--num_processes=0: legal is 1 or more."),
        (["--process_id=-1"], "--process_id=-1: legal is 0 or more."),
        (["--num_processes=2", "--process_id=2"], "--process_id=2: legal is 0 to 1."),
        (
            ["--num_processes=2"],
            f"--num_processes: needs --coordinator_address and --process_id too. {ALL}",
        ),
        (
            ["--coordinator_address=a:7", "--num_processes=2"],
            f"--coordinator_address: needs --process_id too. {ALL}",
        ),
        (
            ["--distributed", "--coordinator_address=node1"],
            "--coordinator_address=node1: expected HOST:PORT of process 0, such as node1:7777.",
        ),
        (
            ["--distributed", "--coordinator_address=node1:70000"],
            "--coordinator_address=node1:70000: expected HOST:PORT of process 0, such as "
            "node1:7777.",
        ),
        (
            ["--distributed", "--initialization_timeout=0"],
            "--initialization_timeout=0: legal is 1 or more.",
        ),
    ],
)
def test_flags_that_do_not_fit(flags, message, capsys):
    assert main([*TRAIN, *flags]) == 2
    assert capsys.readouterr().err == f"ldm-jax: {message}\n"
    assert not os.path.exists("not_made")


@pytest.mark.parametrize("command", ["train", "sample", "encode"])
def test_every_command_of_several_processes_has_them(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    for flag in ("--distributed", "--coordinator_address HOST:PORT", "--num_processes N"):
        assert flag in shown


def test_a_launcher_without_the_flag_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert main([*TRAIN]) == 2
    assert capsys.readouterr().err == (
        "ldm-jax: SLURM_NTASKS=4: several processes were started, and each would do all of the "
        "work. Legal: --distributed, or --num_processes=1 where each has a run of its own.\n"
    )
    ran = []
    with processes.one_of_many(parsed("--num_processes=1"), []):
        ran.append(True)
    assert ran == [True]


def test_one_process_alone_joins_nothing(monkeypatch):
    monkeypatch.setattr(multihost, "join", lambda *_, **__: pytest.fail("joined"))
    with processes.one_of_many(parsed(), []):
        assert processes.first_process(parsed())


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def second_of_two(monkeypatch):
    """Joins nothing, and notes what this process says, tells and ends with."""
    noted = []

    def end(status):
        noted.append(status)
        raise Ended

    monkeypatch.setattr(multihost, "join", lambda *_, **__: None)
    monkeypatch.setattr(multihost, "watch", lambda _: lambda: None)
    monkeypatch.setattr(multihost, "is_first", lambda: False)
    monkeypatch.setattr(multihost, "tell_failure", noted.append)
    monkeypatch.setattr(processes, "_meet", lambda *_: None)
    monkeypatch.setattr(processes, "_LINGER_S", 0)
    monkeypatch.setattr(os, "write", lambda _, text: noted.append(text.decode()))
    monkeypatch.setattr(os, "_exit", end)
    return noted


@pytest.mark.parametrize(
    ("error", "sentence", "status"),
    [
        (UserError("no such\nfile."), "no such\nfile.", 2),
        (OSError(28, "No space left"), "[Errno 28] No space left", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug", 1),
        (
            RuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nand more"),
            "lost another process (RuntimeError: UNKNOWN: Gloo all-reduce failed: Connection "
            "closed by peer).",
            1,
        ),
    ],
)
def test_an_error_is_told_to_all(second_of_two, error, sentence, status, capsys):
    with pytest.raises(Ended), processes.one_of_many(parsed("--distributed"), []):
        raise error
    assert second_of_two == [sentence, line(sentence), status]
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)


def test_a_stop_that_all_agreed_on_is_no_failure(second_of_two):
    class Stopped(KeyboardInterrupt):
        status = 0

    with pytest.raises(Stopped), processes.one_of_many(parsed("--distributed"), []):
        raise Stopped("stopped and saved")
    assert second_of_two == []
    assert ending(Stopped("stopped and saved")) == ("stopped and saved", 0)


def test_a_bug_has_no_sentence():
    assert ending(ZeroDivisionError()) is None


def test_what_all_have_heard_is_not_told_again(second_of_two):
    error = multihost.CommonError("process 0: full.")
    with pytest.raises(Ended), processes.one_of_many(parsed("--distributed"), []):
        raise error
    assert second_of_two == [line("process 0: full."), 2]
