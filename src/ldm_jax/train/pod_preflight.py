"""What several processes must have in common, looked at before any of them writes.

What is wrong here would otherwise show as a hang, or as a run that computes something else.
"""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.multihost import (
    check_same,
    check_together,
    from_first,
    is_first,
    processes,
)

# Seconds for which a network file system may hide what another host wrote.
_VISIBLE_AFTER = 60.0


def check_pod(config: ConfigDict, folder: str | Path, what: str) -> None:
    """Checks that all processes have one configuration and one folder; all must call it.

    Args:
      config: of the run.
      folder: that all of them write to; made where it is not there.
      what: the flag that named it, for the message.

    Raises:
      UserError: on all processes, naming those that differ.
    """
    if jax.process_count() > 1:
        _check_config(config)
        _check_shared(Path(folder), what)


def check_data(source: Any) -> None:
    """Raises UserError unless all processes see the same number of examples and the same classes.

    Every process reads its own rows by their number, so each needs all of the data in reach.
    """
    if jax.process_count() == 1:
        return
    classes = getattr(source, "class_names", None)
    number = f"{len(source)} examples" + (f" of {len(classes)} classes" if classes else "")
    check_same("config.data.source", number, "the same data within reach of all hosts")


def check_shards(count: int, examples_per_shard: int, num_examples: int) -> None:
    """Raises UserError unless every process has a file to write."""
    wanted = jax.process_count()
    if count >= wanted:
        return
    if num_examples < wanted:
        raise UserError(
            f"config.data.source: {num_examples} examples for {wanted} processes. Legal: at most "
            f"{num_examples} processes."
        )
    # The most that still makes so many files, of which only the last may be smaller.
    most = next(n for n in range(examples_per_shard, 0, -1) if -(-num_examples // n) >= wanted)
    raise UserError(
        f"--examples_per_shard={examples_per_shard}: makes {count} file{'s' * (count > 1)} for "
        f"{wanted} processes. Legal: up to {most}."
    )


def _check_config(config: ConfigDict) -> None:
    """Raises UserError for the first field that is not what the first process has."""
    mine = _flat(json.loads(config.to_json_best_effort()))
    first = json.loads(from_first(json.dumps(mine)))
    differs = [key for key in sorted(mine.keys() | first.keys()) if mine.get(key) != first.get(key)]
    complaint = ""
    if differs:
        key = differs[0]
        complaint = (
            f"config.{key}={mine.get(key)!r}, but {first.get(key)!r} on process 0. Legal: the same "
            "configuration everywhere."
        )
    check_together("the configuration", complaint)


def _check_shared(folder: Path, what: str) -> None:
    """Raises UserError unless each process can write to a folder, and the others see it."""
    token = from_first(uuid.uuid4().hex)

    def file(process: int) -> Path:
        return folder / f".preflight-{token}-{process}"

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file(jax.process_index()).write_text(token)
        complaint = ""
    except OSError as error:
        complaint = f"{what}: cannot be written to ({error.strerror})."
    check_together(what, complaint)
    # The first one sees all of them, so all but it see one that sees all.
    looked_for = range(jax.process_count()) if is_first() else [0]
    hidden = _hidden({process: file(process) for process in looked_for})
    if hidden:
        complaint = (
            f"{what}: is not shared; what {processes(hidden)} wrote there is not to be seen. "
            "Legal: a folder that all hosts mount."
        )
    try:
        check_together(what, complaint)
    finally:
        # Each its own, should they lie in different folders; and the first all, before it goes on.
        for process in looked_for if is_first() else [jax.process_index()]:
            file(process).unlink(missing_ok=True)


def _hidden(files: dict[int, Path]) -> list[int]:
    """Returns whose files do not appear in time."""
    deadline = time.monotonic() + _VISIBLE_AFTER
    while True:
        hidden = [process for process, path in files.items() if not path.exists()]
        if not hidden or time.monotonic() > deadline:
            return hidden
        time.sleep(0.5)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat
