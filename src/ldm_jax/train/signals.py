"""A polite end: SIGINT and SIGTERM finish the step and save before the run stops."""

import os
import signal
from types import FrameType

import jax


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved; the message says where, '' but in process 0.

    Attributes:
      status: to exit with: 0 after SIGTERM, which schedulers send to what they will start again;
        130 after SIGINT.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopRequest:
    """While entered, notes SIGINT and SIGTERM; a second SIGINT raises at once.

    One process stops after the step that it is in. Several have to stop after the same one, or the
    others would wait for the first to stop in the next step's collectives. So JAX's preemption
    service tells all processes of the SIGTERM that one has got, and they agree on a step that none
    has begun: over the network between the hosts, in the background, and only then; a step pays for
    a look at a number. A SIGINT is passed on as such a SIGTERM, and keeps its status here.

    Only the main thread can do so; elsewhere signals keep their meaning.

    Args:
      start: the step after which this run begins, the same in all processes.
    """

    def __init__(self, start: int):
        self._start = start
        self._several = jax.process_count() > 1
        self._number: int | None = None
        self._previous: dict[int, object] = {}

    @property
    def status(self) -> int:
        """What to exit with, once it has stopped."""
        return 130 if self._number == signal.SIGINT else 0

    def after(self, step: int) -> bool:
        """Returns whether to stop after this step; all processes ask after each."""
        if not self._several:
            return self._number is not None
        if not _told_of_sigterm():
            return False
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        # Steps of this process: those that were asked before the first one agree on 1.
        return reached_preemption_sync_point(step - self._start)

    def __enter__(self) -> "StopRequest":
        try:
            for number in self._ours():
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            self._previous.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ours(self) -> tuple[signal.Signals, ...]:
        """Returns the signals to handle: of several processes, JAX handles SIGTERM itself."""
        if not self._several:
            return signal.SIGINT, signal.SIGTERM
        return (signal.SIGINT,) if _told_of_sigterm() else ()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = self._number or number
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)


def _told_of_sigterm() -> bool:
    return bool(jax.config.jax_enable_preemption_service)  # type: ignore[attr-defined]
