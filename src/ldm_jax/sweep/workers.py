"""Jobs in processes of their own, a share of the machine each."""

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple, cast

from absl import logging

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.shares import Share, started_in


class Job(NamedTuple):
    """What is to be done in a process.

    Attributes:
      label: in words.
      work: a function of a module; returns None, or a sentence where it failed.
      arguments: of it, to be pickled.
    """

    label: str
    work: Callable[..., str | None]
    arguments: tuple[Any, ...]


class _Running(NamedTuple):
    job: Job
    share: Share
    process: Any
    said: Any


def run_jobs(jobs: Sequence[Job], shares: Sequence[Share]) -> None:
    """Runs all jobs, as many at a time as there are shares, in their order.

    Asked to stop by SIGINT or SIGTERM, it asks those that run, which save, and waits for them.

    Raises:
      UserError: one or more failed; the others of that time have ended, none began after it.
    """
    waiting, free, running = deque(jobs), deque(shares), dict[int, _Running]()
    failures: list[str] = []
    with _sigterm_as_interrupt():
        try:
            while running or (waiting and not failures):
                while waiting and free and not failures:
                    begun = _start(waiting.popleft(), free.popleft())
                    running[begun.process.sentinel] = begun
                for sentinel in connection.wait(list(running)):
                    ended = running.pop(cast(int, sentinel))
                    free.append(ended.share)
                    failures += _failure(ended)
        except KeyboardInterrupt:
            for one in running.values():
                one.process.terminate()
            for one in running.values():
                one.process.join()
            raise
    if failures:
        raise UserError(
            f"sweep: {'; '.join(failures)} ({len(waiting)} not begun; the same command goes on)."
        )


def _start(job: Job, share: Share) -> _Running:
    # Not a fork, which may hang where JAX has threads.
    context = multiprocessing.get_context("spawn")
    said, say = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, say))
    logging.info("sweep: %s begins", job.label)
    with started_in(share):
        process.start()
    say.close()
    return _Running(job, share, process, said)


def _work(job: Job, say: Any) -> None:
    """What a process does."""
    try:
        say.send(job.work(*job.arguments))
    except KeyboardInterrupt as error:  # `train.signals.Interrupted` says where it has saved
        say.send(str(error) or "interrupted")


def _failure(ended: _Running) -> list[str]:
    """Returns what went wrong in a process that has ended, [] or a sentence."""
    ended.process.join()
    try:
        sentence = ended.said.recv()
    except EOFError:  # killed, such as for want of memory
        sentence = f"its process ended with status {ended.process.exitcode}"
    ended.said.close()
    return [] if sentence is None else [f"{ended.job.label}: {sentence}"]


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """While entered, a SIGTERM raises KeyboardInterrupt; outside the main thread it cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("stopped; the same command goes on from there.")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
