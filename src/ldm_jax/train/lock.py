"""One run per workdir at a time."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

import jax

from ldm_jax.core.checks import UserError


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
    path = Path(workdir) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{what or f'--workdir={workdir}'}: another run is {doing} there. Legal: wait "
                    f"until it ends, or another {(what or '--workdir').partition('=')[0]}."
                ) from error
            # A file system without locks: nothing is held, as nothing can be.
        yield
