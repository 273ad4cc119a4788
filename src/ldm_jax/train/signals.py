"""A polite end: SIGINT and SIGTERM finish the step and save before the run stops."""

import signal
from types import FrameType

import jax


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved; the message says where."""


class StopRequest:
    """While entered, notes SIGINT and SIGTERM in `requested`; a second SIGINT raises at once.

    Only the main thread of a single process can do so; elsewhere signals keep their meaning, since
    several processes would first have to agree on the step.
    """

    def __init__(self):
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() > 1:
            return self
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            self._previous.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
