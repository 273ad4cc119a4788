"""Rows of features of numbered images on disk, filled by as many runs as it takes.

folder/key.json                       what the rows follow from
folder/rows-000000000-000000256.npz   those of images 0 to 255; under a name in .part until whole
"""

import hashlib
import json
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ldm_jax.core.checks import UserError

KEY = "key.json"
_FILE = re.compile(r"rows-(\d{9,})-(\d{9,})\.npz")
_CODE = "made_by"  # entry of a file: the code that made its rows
_DAMAGED = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


class FeatureLog:
    """A folder of arrays with a row per image, to which runs append.

    What a killed run had appended stays, and the next one computes what is missing. A file that is
    damaged counts as missing. Images are told by their numbers, so neither the order nor the
    batches in which their rows come make a difference.

    Args:
      folder: made with the first rows.
      key: what the rows follow from beside the image's number, as JSON.
      shapes: of one row of each array, which is float32.

    Raises:
      UserError: the folder holds rows that follow from something else.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]):
        self.folder, self._shapes = folder, dict(shapes)
        self._key = json.dumps(key, indent=2, sort_keys=True) + "\n"
        path = folder / KEY
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != self._key:
            raise UserError(
                f"{path}: stale, it is not the key of these features, or damaged. Legal: remove "
                "this folder, or give another."
            )

    def has(self, count: int) -> np.ndarray:
        """Returns of which images below `count` there are whole rows, bool [count]."""
        found = np.zeros(count, bool)
        for numbers, _ in self._whole_files(count):
            found[numbers.start : numbers.stop] = True
        return found

    def append(self, numbers: np.ndarray, rows: Mapping[str, np.ndarray], made_by: str) -> None:
        """Writes rows, as one file for each run of consecutive images.

        Args:
          numbers: [n] of the images, rising.
          rows: [n, …] by the names of `shapes`.
          made_by: version of the code.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / KEY).is_file():
            part = _part(self.folder / KEY)
            part.write_text(self._key, encoding="utf-8")
            part.replace(self.folder / KEY)
        for places in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            start, stop = int(numbers[places[0]]), int(numbers[places[-1]]) + 1
            arrays: dict[str, Any] = {_CODE: np.asarray(made_by)}
            for name in self._shapes:
                arrays[name] = np.asarray(rows[name][places], np.float32)
            path = self.folder / f"rows-{start:09d}-{stop:09d}.npz"
            part = _part(path)
            with open(part, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)

    def read(self, count: int, name: str) -> np.ndarray:
        """Returns the rows of images 0 .. count - 1, [count, …] float32.

        Raises:
          UserError: some are missing.
        """
        found = np.empty((count, *self._shapes[name]), np.float32)
        there = np.zeros(count, bool)
        for numbers, arrays in self._whole_files(count, [name]):
            stop = min(numbers.stop, count)
            found[numbers.start : stop] = arrays[name][: stop - numbers.start]
            there[numbers.start : stop] = True
        if not there.all():
            raise UserError(
                f"{self.folder}: {int((~there).sum())} of {count} rows are missing, the first of "
                f"them number {int(np.argmin(there))}. Legal: the same command again."
            )
        return found

    def made_by(self, count: int) -> list[str]:
        """Returns the versions of the code that made the rows of images 0 .. count - 1."""
        return sorted({str(arrays[_CODE]) for _, arrays in self._whole_files(count, [])})

    def _whole_files(
        self, count: int, names: Sequence[str] | None = None
    ) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
        """Yields the images and arrays of every whole file with images below `count`.

        All arrays are read, for their checksums, unless names say which.
        """
        for path in sorted(self.folder.glob("rows-*.npz")):
            match = _FILE.fullmatch(path.name)
            numbers = range(int(match[1]), int(match[2])) if match else range(0)
            if not numbers or numbers.start >= count:
                continue
            try:
                with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in names or ()}
                    arrays |= {} if names is not None else {x: file[x] for x in self._shapes}
                    arrays[_CODE] = file[_CODE]
                for name, rows in arrays.items():
                    shape = (len(numbers), *self._shapes[name]) if name != _CODE else ()
                    if rows.shape != shape:
                        raise ValueError(f"{name} has shape {rows.shape}")
            except _DAMAGED as error:
                logging.warning("%s is damaged (%s), so its images are missing", path, error)
                continue
            yield numbers, arrays


def _part(path: Path) -> Path:
    """Returns a name of its own for what becomes `path`: several runs may fill a folder."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")


def digest(key: Mapping[str, Any]) -> str:
    """Returns a hash of a key, 16 hexadecimal digits, for names of folders."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
