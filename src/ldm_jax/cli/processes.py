"""The flags by which a command runs as one of several processes, and what is done around it."""

import argparse
import contextlib
import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from ldm_jax.cli.endings import ending, line
from ldm_jax.cli.logs import only_warnings
from ldm_jax.core.checks import UserError, shortened

_FLAGS = ("coordinator_address", "num_processes", "process_id")
_OF_THE_PROCESS = ("distributed", *_FLAGS, "initialization_timeout")
_LINGER_S = 3.0  # for others to hear of a failure; they ask every second
_LONGEST_S = 7 * 24 * 3600  # for the end of the slowest process
# What a lost process looks like from the others: in words of Gloo, of NCCL, of gRPC.
_LOST = ("gloo", "nccl", "connection", "unavailable", "peer", "heartbeat", "socket")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, named as the arguments of `jax.distributed.initialize`."""
    group = parser.add_argument_group("several processes", "one command per process, all the same")
    add = group.add_argument
    add(
        "--distributed",
        action="store_true",
        help="this is one of the processes that Slurm, Open MPI, Kubernetes or a TPU pod started",
    )
    add("--coordinator_address", metavar="HOST:PORT", help="of process 0, where nothing tells")
    add("--num_processes", metavar="N", type=int, help="of all hosts; 1 is a run of its own")
    add("--process_id", metavar="K", type=int, help="of this one, from 0")
    add(
        "--initialization_timeout",
        metavar="SECONDS",
        type=int,
        default=300,
        help="for all processes to come (default: 300)",
    )


@contextlib.contextmanager
def one_of_many(
    arguments: argparse.Namespace, overrides: list[str], *, saves_on_sigterm: bool = False
) -> Iterator[None]:
    """Runs its body as one of several processes, where the flags say so.

    The body starts once they have met, agree on the command, and can add up a number over all
    devices. An error in one of them ends all, each with a sentence and a status that is not 0.

    Args:
      arguments: with the flags of `add_arguments`.
      overrides: of the configuration.
      saves_on_sigterm: see `parallel.multihost.join`.

    Raises:
      UserError: flags that do not fit each other, or none where a launcher started several.
    """
    if not _wanted(arguments):
        yield
        return
    from ldm_jax.parallel import multihost

    multihost.join(
        *(getattr(arguments, name) for name in _FLAGS),
        timeout_s=arguments.initialization_timeout,
        saves_on_sigterm=saves_on_sigterm,
        end=_end,
    )
    stop_watching = multihost.watch(_end)
    try:
        _meet(arguments, overrides)
        yield
        multihost.gather("the end", "", _LONGEST_S)
    except BaseException as error:
        if not hasattr(error, "status"):
            _fail(error)
        # All of them stop, and have saved. One with a status leaves at once, so they part here.
        multihost.part(_LONGEST_S)
        raise
    finally:
        stop_watching()


def first_process(arguments: argparse.Namespace) -> bool:
    """Returns whether this process prints and draws bars; JAX need not have started."""
    if not _wanted(arguments):
        return True
    from ldm_jax.parallel.multihost import is_first

    return is_first()


def _wanted(arguments: argparse.Namespace) -> bool:
    """Returns whether the flags ask for several processes.

    Raises:
      UserError: they do not fit each other or the environment.
    """
    given = [name for name in _FLAGS if getattr(arguments, name) is not None]
    count, number = arguments.num_processes, arguments.process_id
    if arguments.initialization_timeout < 1:
        raise UserError(
            f"--initialization_timeout={arguments.initialization_timeout}: legal is 1 or more."
        )
    if count is not None and count < 1:
        raise UserError(f"--num_processes={count}: legal is 1 or more.")
    if number is not None and not 0 <= number < (count or number + 1):
        legal = f"0 to {count - 1}" if count else "0 or more"
        raise UserError(f"--process_id={number}: legal is {legal}.")
    _check_address(arguments.coordinator_address)
    if arguments.distributed or len(given) == len(_FLAGS):
        return True
    if given == ["num_processes"] and count == 1:
        return False
    if given:
        missing = [f"--{name}" for name in _FLAGS if name not in given]
        raise UserError(
            f"--{given[0]}: needs {' and '.join(missing)} too. Legal: all three, or --distributed, "
            "which finds what is not given."
        )
    from ldm_jax.parallel.multihost import several_tasks

    found = several_tasks(os.environ)
    if found:
        raise UserError(
            f"{found}: several processes were started, and each would do all of the work. Legal: "
            "--distributed, or --num_processes=1 where each has a run of its own."
        )
    return False


def _check_address(address: str | None) -> None:
    if address is None:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator_address={address}: expected HOST:PORT of process 0, such as node1:7777."
        )


def _meet(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Prints who is there, and checks that they do the same and reach each other."""
    import jax
    from absl import logging

    from ldm_jax.parallel import multihost

    if not multihost.is_first():
        only_warnings(f"process {jax.process_index()}: ")
    said: dict[str, Any] = vars(arguments)
    command = [f"{k}={v}" for k, v in sorted(said.items()) if k not in _OF_THE_PROCESS]
    multihost.check_same(
        "the command", shortened(shlex.join([*command, *overrides])), "the same one on all hosts"
    )
    for text in multihost.device_map():
        logging.info("%s", text)
    multihost.check_devices()


def _fail(error: BaseException) -> None:
    """Tells the others of an error, and ends this process without waiting for them."""
    from ldm_jax.parallel import multihost

    known = ending(error)
    text = f"{type(error).__name__}: {error}"
    if known is None and any(word in text.lower() for word in _LOST):
        time.sleep(_LINGER_S)  # who failed says why, and `watch` ends this process with that
        known = f"lost another process ({shortened(text.splitlines()[0])}).", 1
    if known is None:
        traceback.print_exception(error)
        known = text, 1
    sentence, status = known
    if not isinstance(error, multihost.CommonError):
        multihost.tell_failure(sentence)
    if multihost.is_first():
        time.sleep(_LINGER_S)  # it holds what the others hear
    _end(sentence, status)


def _end(sentence: str, status: int = 1) -> None:
    """Ends the process at once: an ordinary end would wait for processes that hang or are gone."""
    sys.stdout.flush()
    os.write(2, line(sentence).encode())
    os._exit(status)
