"""Files of records that make up a whole: their numbering, writing and counting."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

FORMAT = 1


class Sharded:
    """Base of dataclasses that tell what a folder of shards is.

    Attributes:
      manifest: file of the folder that keeps the fields.
      prefix: of the names of shards.
      examples_per_shard: the last one may have fewer.
    """

    manifest: ClassVar[str]
    prefix: ClassVar[str]
    examples_per_shard: int

    def __len__(self) -> int:
        """Examples in all shards."""
        raise NotImplementedError

    @property
    def num_shards(self) -> int:
        """Files of a complete folder."""
        return math.ceil(len(self) / self.examples_per_shard)

    def shard(self, number: int) -> tuple[str, range]:
        """Returns the file name of a shard, and the numbers of its examples."""
        start = number * self.examples_per_shard
        stop = min(start + self.examples_per_shard, len(self))
        name = f"{self.prefix}-{number:05d}-of-{self.num_shards:05d}.array_record"
        return name, range(start, stop)

    def write(self, folder: Path) -> None:
        """Writes the fields as JSON, under a temporary name until they are whole."""
        fields: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(self)}  # type: ignore
        temporary = folder / f"{self.manifest}.tmp"
        temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / self.manifest)


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes one shard, under a temporary name until it is whole."""
    from array_record.python.array_record_module import ArrayRecordWriter

    part = path.with_name(f"{path.name}.part")
    writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")  # noise does not compress
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()
    part.replace(path)


def count_records(path: Path) -> int:
    """Returns the records of a shard; 0 if it is missing or damaged."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        return 0
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()  # raises whatever was wrong
    except RuntimeError:
        return 0
    return count
