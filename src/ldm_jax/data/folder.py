"""Images in a folder, with captions and classes from metadata.jsonl or from sub-folders."""

import hashlib
import json
import os
import pathlib
import struct
import threading
import zlib
from typing import Any

from absl import logging
from PIL import Image

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data import transforms

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_METADATA = "metadata.jsonl"
# What Pillow raises for broken files, format by format.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class Folder:
    """Images under a folder, in the order of metadata.jsonl or of their sorted names.

    With `metadata.jsonl` (one JSON object per line, `file_name` and columns), captions come from
    `text_column` and classes from `class_column`; a row without a caption has the empty one.
    Otherwise, images in sub-folders have the sub-folder's name as class, and images without
    sub-folders have no class.

    A file that is missing or cannot be read is quarantined: the next readable one takes its
    place, always the same, so that batches keep their size and a resumed run sees the same
    examples.

    Args:
      path: the folder.
      text_column: column of the caption.
      class_column: column of the class; names are sorted and numbered.
      max_bad_fraction: the run stops when more than this part of the files is quarantined.

    Attributes:
      quarantine: path -> reason, filled as files are met.
    """

    def __init__(
        self,
        path: str = "",
        text_column: str = "text",
        class_column: str | None = None,
        max_bad_fraction: float = 0.01,
    ):
        self.path, self.text_column, self.class_column = path, text_column, class_column
        self.max_bad_fraction = max_bad_fraction
        self.class_names: tuple[str, ...] | None = None
        self.quarantine: dict[str, str] = {}
        self._lock = threading.Lock()
        self._root = _check_root(path)
        metadata = self._root / _METADATA
        rows = _read_metadata(metadata) if metadata.is_file() else None
        self._texts: list[str] | None = None
        self._classes: list[int] | None = None
        if rows is None:
            self._files = _list_images(self._root)
            labels = [file.parts[0] if len(file.parts) > 1 else None for file in self._files]
        else:
            self._files = [pathlib.PurePath(row["file_name"]) for row in rows]
            labels = self._read_columns(metadata, rows)
        if not self._files:
            raise UserError(
                f"data.source.path: no images in {self._root}. Expected {_METADATA}, or files "
                f"ending in {', '.join(EXTENSIONS)}."
            )
        self._number_classes(labels)
        self._find_missing()

    def __repr__(self) -> str:
        return (
            f"Folder(path={self.path!r}, text_column={self.text_column!r}, "
            f"class_column={self.class_column!r}, max_bad_fraction={self.max_bad_fraction})"
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image uint8 [H, W, C], C in 1 .. 4, and class and text where known.

        Raises:
          UserError: when too many files are unreadable.
        """
        for step in range(len(self._files)):
            chosen = (index + step) % len(self._files)
            image = self._read(chosen)
            if image is not None:
                break
        else:
            raise UserError(f"data.source.path: none of the images in {self._root} can be read.")
        example: dict[str, Any] = {"image": image}
        if self._texts is not None:
            example["text"] = self._texts[chosen]
        if self._classes is not None:
            example["class"] = self._classes[chosen]
        return example

    def fingerprint(self) -> str:
        """Returns a hash of the names, sizes, captions and classes of all files."""
        digest = hashlib.sha256()
        for index, file in enumerate(self._files):
            path = self._root / file
            size = path.stat().st_size if path.is_file() else None
            text = self._texts[index] if self._texts is not None else None
            number = self._classes[index] if self._classes is not None else None
            digest.update(f"{json.dumps([file.as_posix(), size, text, number])}\n".encode())
        return digest.hexdigest()

    def _read(self, index: int) -> Any:
        file = str(self._root / self._files[index])
        if file in self.quarantine:
            return None
        try:
            return transforms.decode(file)
        except _UNREADABLE as error:
            self._set_aside({file: f"{type(error).__name__}: {error}"})
            return None

    def _set_aside(self, reasons: dict[str, str]) -> None:
        with self._lock:
            for file, reason in reasons.items():
                if file not in self.quarantine:
                    self.quarantine[file] = reason
                    logging.warning("quarantined %s: %s", file, reason)
            bad, total = len(self.quarantine), len(self._files)
            if bad > self.max_bad_fraction * total:
                some = "; ".join(f"{f} ({why})" for f, why in list(self.quarantine.items())[:3])
                raise UserError(
                    f"data.source.path: {bad} of {total} images ({bad / total:.1%}) in {self._root}"
                    f" are missing or unreadable, such as {some}. Legal: at most "
                    f"max_bad_fraction={self.max_bad_fraction}."
                )

    def _find_missing(self) -> None:
        listing: dict[pathlib.Path, set[str]] = {}
        missing = {}
        for file in self._files:
            full = self._root / file
            if full.parent not in listing:
                exists = full.parent.is_dir()
                listing[full.parent] = set(os.listdir(full.parent)) if exists else set()
            if full.name not in listing[full.parent]:
                missing[str(full)] = f"listed in {_METADATA}, but missing"
        if missing:
            self._set_aside(missing)

    def _read_columns(self, metadata: pathlib.Path, rows: list[dict]) -> list[str | None]:
        """Sets the captions and returns the class names, both as the rows give them."""
        if any(self.text_column in row for row in rows):
            self._texts = [str(row.get(self.text_column) or "") for row in rows]
        elif self.text_column != "text":
            raise UserError(_no_column(metadata, "text_column", self.text_column, rows))
        if self.class_column is None:
            return [None] * len(rows)
        if any(row.get(self.class_column) is None for row in rows):
            raise UserError(_no_column(metadata, "class_column", self.class_column, rows))
        return [str(row[self.class_column]) for row in rows]

    def _number_classes(self, labels: list[str | None]) -> None:
        named = [label for label in labels if label is not None]
        if not named:
            return
        if len(named) != len(labels):
            raise UserError(
                f"data.source.path: {len(labels) - len(named)} images lie in {self._root} itself "
                f"and {len(named)} in its sub-folders. Legal: all here, or all in class folders."
            )
        # Whole numbers in their own order: class 10 comes after class 2, not before.
        whole = all(name.isascii() and name.isdigit() for name in named)
        self.class_names = tuple(sorted(set(named), key=int if whole else None))
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self._classes = [numbers[name] for name in named]


def _check_root(path: str) -> pathlib.Path:
    root = pathlib.Path(path).expanduser()
    if not path or not root.is_dir():
        got = f"no folder {str(root)!r}" if path else "not set"
        raise UserError(
            f"data.source.path: {got}. Expected a folder of images; set it with "
            "--config.data.source.path=DIR."
        )
    return root


def _list_images(root: pathlib.Path) -> list[pathlib.PurePath]:
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        # Notebooks and file managers leave hidden folders; their images are no class.
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (pathlib.Path(folder, name) for name in names if not name.startswith("."))
        found += [file for file in files if file.suffix.lower() in EXTENSIONS and file.is_file()]
    return sorted(file.relative_to(root) for file in found)


def _read_metadata(file: pathlib.Path) -> list[dict]:
    rows = []
    for number, line in enumerate(read_text(file, "data.source.path").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{file}:{number}: not a JSON object: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{file}:{number}: expected a JSON object with file_name, a text.")
        rows.append(row)
    return rows


def _no_column(metadata: pathlib.Path, field: str, column: str, rows: list[dict]) -> str:
    found = sorted({key for row in rows for key in row if key != "file_name"})
    return (
        f"data.source.{field}: {metadata} has no {column!r} in every row it is needed in. "
        f"Columns: {', '.join(found) or 'none'}."
    )
