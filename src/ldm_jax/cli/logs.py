"""What the commands let through to the terminal from the logs of this package and of others."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def _speaks_to_the_user(record: logging.LogRecord) -> bool:
    """Our messages are written for the user; Orbax's and others', but for errors, are not."""
    return record.pathname.startswith(_PACKAGE) or record.levelno >= logging.ERROR


def only_warnings(prefix: str) -> None:
    """Lets this process speak of what is wrong alone, under its name; within `command_logs`."""
    for handler in logging.getLogger("absl").handlers:
        handler.setLevel(logging.WARNING)
        handler.setFormatter(logging.Formatter(f"ldm-jax: {prefix}%(message)s"))


@contextlib.contextmanager
def command_logs() -> Iterator[None]:
    """Shows this package's log lines, and only errors of the other users of absl's logger.

    Lines are written above a progress bar, not into it.
    """
    from tqdm.contrib.logging import logging_redirect_tqdm

    # Its tokenizers, all that is used here, would advise to install PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logger = logging.getLogger("absl")
    before = logger.level, logger.propagate, logger.handlers[:]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ldm-jax: %(message)s"))
    handler.addFilter(_speaks_to_the_user)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm(loggers=[logger]):
            yield
    finally:
        logger.level, logger.propagate, logger.handlers = before
