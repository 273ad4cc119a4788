"""A polite end: SIGINT and SIGTERM finish the step and save before the run stops."""

import signal
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has saved; the message says where."""


class StopRequest:
    """While entered, notes SIGINT and SIGTERM in `requested`; a second SIGINT raises at once.

    Only the main thread can install handlers; elsewhere this does nothing.
    """

    def __init__(self):
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
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
