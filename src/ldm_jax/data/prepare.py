"""Any source, written once as shards of records that are quick to read."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax.core.checks import UserError, check_positive, shortened
from ldm_jax.core.lock import folder_lock
from ldm_jax.data.ahead import available_threads, map_ahead
from ldm_jax.data.file_source import UNREADABLE, FileSource, reason
from ldm_jax.data.image_files import Storage
from ldm_jax.data.record_format import DATASET, QUARANTINE, Dataset, pack, read_dataset
from ldm_jax.data.shards import count_records, write_shard
from ldm_jax.data.source import Source

Progress = Callable[[int, int], object]


class Prepared(NamedTuple):
    """What a call of `prepare` did, and what is there.

    Attributes:
      written: examples, by this call.
      examples: in all shards.
      left_out: in quarantine.jsonl.
      shards: written by this call.
      shards_before: that were whole already.
      num_bytes: of all shards.
      seconds: of this call.
    """

    written: int
    examples: int
    left_out: int
    shards: int
    shards_before: int
    num_bytes: int
    seconds: float


class _Bad(NamedTuple):
    """An example that is left out."""

    example: int
    path: str
    reason: str


def prepare(
    source: Source,
    out: str | Path,
    storage: Storage | None = None,
    *,
    examples_per_shard: int = 2048,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Writes every readable example of a source to shards in a folder, and lists the others.

    Whole shards that are there are kept, so the same call goes on where a killed one ended.

    Args:
      source: a `FileSource` is asked for each example by itself, so none stands in for another.
      out: the folder; new, or of an earlier call.
      storage: of images; by default, as they are.
      examples_per_shard: of the source.
      num_threads: by default one per processor.
      progress: called with the number of examples done, those of whole shards first, and of all.

    Raises:
      UserError: a folder that holds something else, or no image that can be read.
    """
    out, storage = Path(out).expanduser(), storage or Storage()
    num_threads = available_threads() if num_threads is None else num_threads
    check_positive("--num_threads", [num_threads])
    check_positive("--examples_per_shard", [examples_per_shard])
    dataset = Dataset(_key(source, storage), len(source), examples_per_shard, source.class_names)
    report = progress or (lambda count, total: None)
    start = time.monotonic()
    with folder_lock(out, f"--out={out}", "preparing"):
        bad, missing = _resume(out, dataset)
        report(len(source) - _examples(dataset, missing), len(source))
        for number in missing:
            name, numbers = dataset.shard(number)
            stored = map_ahead(lambda i: _record(source, storage, i), numbers, num_threads)
            write_shard(out / name, _good(stored, out, bad, lambda: report(1, len(source))))
        counts = [_good_count(dataset, number, bad) for number in range(dataset.num_shards)]
        if not sum(counts):
            raise UserError(
                f"--out={out}: none of the {len(source)} examples can be read, such as "
                f"{shortened(bad[0].path)} ({shortened(bad[0].reason)}). Legal: at least one that "
                "can."
            )
        _write_quarantine(out, bad)
        dataclasses.replace(dataset, counts=tuple(counts)).write(out)
    sizes = [(out / dataset.shard(number)[0]).stat().st_size for number in range(len(counts))]
    return Prepared(
        written=sum(counts[number] for number in missing),
        examples=sum(counts),
        left_out=len(bad),
        shards=len(missing),
        shards_before=len(counts) - len(missing),
        num_bytes=sum(sizes),
        seconds=time.monotonic() - start,
    )


def _key(source: Source, storage: Storage) -> dict[str, Any]:
    """Returns what the records follow from; where a source knows its content, not where it lies."""
    fingerprint = getattr(source, "fingerprint", None)
    content = fingerprint() if fingerprint is not None else repr(source)
    return {"source": type(source).__name__, "content": content, **dataclasses.asdict(storage)}


def _record(source: Source, storage: Storage, index: int) -> bytes | _Bad:
    """Returns the record of an example, or why there is none."""
    files = source if isinstance(source, FileSource) else None
    path = files.name(index) if files is not None else f"example {index}"
    example = files.read(index) if files is not None else source[index]
    if example is None:
        return _Bad(index, path, files.quarantine[path] if files is not None else "")
    try:
        original = files.image_bytes(index) if files is not None else None
        return pack(example, storage.files(example, original))
    except UNREADABLE as error:  # what cannot be stored, such as a WebP of 20,000 pixels
        return _Bad(index, path, reason(error))


def _good(
    stored: Iterator[bytes | _Bad], out: Path, bad: list[_Bad], report: Callable[[], object]
) -> Iterator[bytes]:
    """Yields records; lists the others when all are through, which is before the shard counts."""
    found = []
    for item in stored:
        if isinstance(item, bytes):
            yield item
        else:
            found.append(item)
        report()
    with (out / QUARANTINE).open("a", encoding="utf-8") as file:
        file.writelines(_line(item) for item in found)
    bad += found


def _resume(out: Path, dataset: Dataset) -> tuple[list[_Bad], list[int]]:
    """Returns what the whole shards left out, and the numbers of the other shards.

    Raises:
      UserError: the folder holds something else.
    """
    _claim(out, dataset)
    listed = _read_quarantine(out / QUARANTINE)
    missing = []
    for number in range(dataset.num_shards):
        file = out / dataset.shard(number)[0]
        whole = file.is_file() and count_records(file) == _good_count(dataset, number, listed)
        if not whole:
            missing.append(number)
    again = {index for number in missing for index in dataset.shard(number)[1]}
    bad = [item for item in listed if item.example not in again]
    _write_quarantine(out, bad)
    return bad, missing


def _claim(out: Path, dataset: Dataset) -> None:
    """Writes dataset.json, or checks that the one there is the same."""
    if (out / DATASET).is_file():
        there = read_dataset(out)
        fields = {field: (there.key.get(field), value) for field, value in dataset.key.items()}
        for field in ("num_examples", "examples_per_shard", "class_names"):
            fields[field] = (getattr(there, field), getattr(dataset, field))
        for field, (got, value) in fields.items():
            if got != value:
                raise UserError(
                    f"--out={out}: holds data whose {field} is {got!r}, not {value!r}. Legal: the "
                    "same value, or a new folder."
                )
        return
    strangers = sorted(p.name for p in out.iterdir() if p.name not in ("lock", f"{DATASET}.tmp"))
    if strangers:
        raise UserError(f"--out={out}: holds {strangers[0]} and no {DATASET}. Legal: a new folder.")
    dataset.write(out)


def _read_quarantine(file: Path) -> list[_Bad]:
    """Returns the list of an earlier call; a line that it could not finish counts for nothing."""
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(_Bad(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def _write_quarantine(out: Path, bad: list[_Bad]) -> None:
    part = out / f"{QUARANTINE}.tmp"
    part.write_text("".join(map(_line, sorted(bad))), encoding="utf-8")
    part.replace(out / QUARANTINE)


def _line(item: _Bad) -> str:
    return json.dumps(item._asdict()) + "\n"


def _good_count(dataset: Dataset, number: int, bad: list[_Bad]) -> int:
    numbers = dataset.shard(number)[1]
    return len(numbers) - len({item.example for item in bad if item.example in numbers})


def _examples(dataset: Dataset, shards: list[int]) -> int:
    return sum(len(dataset.shard(number)[1]) for number in shards)
