"""The progress bar of the commands."""

import time
from typing import Any


class Progress:
    """A progress bar that appears with the first report, so that no mistake is printed into it.

    Args:
      what: the name of the command.
      total: of all reports; None where it comes with them.
      unit: what is counted.
      shown: not by all of several processes.
    """

    def __init__(self, what: str, total: int | None, unit: str, shown: bool = True):
        self._shown = shown
        self._settings: dict[str, Any] = {"desc": what, "total": total, "unit": unit}
        self._start = time.time()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __call__(self, count: int, total: int | None = None) -> None:
        """Adds to what is done; `total` is that of all reports."""
        if not self._shown:
            return
        self._settings["total"] = total or self._settings["total"]
        if self._bar is None:
            from tqdm import tqdm

            scale = self._settings["unit"] == "B"
            self._bar = tqdm(dynamic_ncols=True, unit_scale=scale, **self._settings)
            self._bar.start_t = self._start
        self._bar.update(count)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
