"""Prepared data: the records of `ldm-jax data prepare` as a source."""

import bisect
import itertools
import json
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.data.file_source import FileSource
from ldm_jax.data.record_format import read_dataset, split_record, unpack


class Records(FileSource):
    """The examples in a folder that `ldm-jax data prepare` wrote.

    They are those of the source it was told to prepare, in its order, less the ones in
    quarantine.jsonl. A record that is damaged later is quarantined, as by `Folder`.

    Args:
      path: the folder.
      max_bad_fraction: the run stops when more than this part of the records is quarantined.

    Attributes:
      quarantine: `SHARD:number` -> reason, filled as records are met.
    """

    def __init__(self, path: str = "", max_bad_fraction: float = 0.01):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        super().__init__(path, max_bad_fraction)
        if not path:
            raise UserError(
                "data.source.path: not set. Expected a folder of 'ldm-jax data prepare'; set it "
                "with --config.data.source.path=DIR."
            )
        self.path = path
        self._dataset = dataset = read_dataset(path)
        self.class_names = dataset.class_names
        folder = Path(path).expanduser()
        self._files = [folder / dataset.shard(number)[0] for number in range(dataset.num_shards)]
        there = sum(file.is_file() for file in self._files)
        if dataset.counts is None or there < len(self._files):
            raise UserError(
                f"data.source.path={path}: not complete, {there} of {len(self._files)} shards are "
                "there. Legal: the command 'ldm-jax data prepare' that began it, again."
            )
        self._ends = list(itertools.accumulate(dataset.counts))
        try:
            self._records = ArrayRecordDataSource([str(file) for file in self._files])
            found = len(self._records)
            if found != self._ends[-1]:
                raise RuntimeError(f"{found} records, expected {self._ends[-1]}")
        except RuntimeError as error:
            raise UserError(
                f"data.source.path={path}: a shard is damaged ({error}). Legal: the command "
                "'ldm-jax data prepare' that wrote it, again."
            ) from error

    def __repr__(self) -> str:
        return f"Records(path={self.path!r}, max_bad_fraction={self.max_bad_fraction})"

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        """Returns the shard and the number of the record in it."""
        shard = bisect.bisect_right(self._ends, index)
        return f"{self._files[shard]}:{index - (self._ends[shard - 1] if shard else 0)}"

    def load(self, index: int) -> dict[str, Any]:
        """Returns image uint8 [H, W, C], C in 1 .. 4, and what else the source had."""
        return unpack(self._records[int(index)])

    def image_bytes(self, index: int) -> bytes:
        """Returns the file of the image."""
        return split_record(self._records[int(index)])[1]["image"]

    def fingerprint(self) -> str:
        """Returns what the records were made from, and how many there are."""
        return json.dumps([dict(self._dataset.key), self._ends])
