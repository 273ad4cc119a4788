"""One writer per folder at a time."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ldm_jax.core.checks import UserError


@contextlib.contextmanager
def folder_lock(folder: str | Path, what: str, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Holds `folder/lock`; a process that died holds nothing.

    Args:
      folder: is made.
      what: the flag and its value, for the message.
      doing: likewise.
      wait: until another process that holds it lets go.

    Raises:
      UserError: another process holds it, and this one does not wait.
    """
    path = Path(folder) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"{what}: another run is {doing} there. Legal: wait until it ends, or another "
                    f"{what.partition('=')[0]}."
                ) from error
            # A file system without locks: nothing is held, as nothing can be.
        yield
