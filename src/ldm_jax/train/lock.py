"""One run per workdir at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from ldm_jax.core.lock import folder_lock


@contextlib.contextmanager
def workdir_lock(
    workdir: str | Path, what: str | None = None, doing: str = "training"
) -> Iterator[None]:
    """Holds `workdir/lock`, from the first process of a run; a dead run holds nothing.

    Args:
      workdir: a folder, which is made.
      what: for the message, by default the flag --workdir.
      doing: likewise.

    Raises:
      UserError: another run is there.
    """
    if jax.process_index() != 0:
        yield
        return
    with folder_lock(workdir, what or f"--workdir={workdir}", doing):
        yield
