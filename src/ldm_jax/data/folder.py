"""Images in a folder: captions and classes from metadata.jsonl or sub-folders, maps beside them."""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, check_in, shortened
from ldm_jax.data import transforms
from ldm_jax.data.file_source import BadExample, FileSource
from ldm_jax.data.folder_listing import (
    EXTENSIONS,
    METADATA,
    check_root,
    file_inside,
    files_in,
    list_images,
    no_column,
    read_metadata,
)
from ldm_jax.data.side_cars import MAPS, pad_all_boxes, parse_boxes, read_map

_SIDE_CARS = (*MAPS, "boxes")


class Folder(FileSource):
    """Images under a folder, in the order of metadata.jsonl or of their sorted names.

    With `metadata.jsonl` (one JSON object per line, `file_name` and columns), captions come from
    `text_column` and classes from `class_column`; a row without a caption has the empty one.
    Otherwise, images in sub-folders have the sub-folder's name as class, and images without
    sub-folders have no class.

    What lies beside the images is read with them: `name.segmentation.png` (class numbers, as
    palette indices or greys) and `name.mask.png` (0 and one other value) beside `name.jpg`; or
    the files that the columns `segmentation` and `mask` of metadata.jsonl name, relative to the
    folder. Its column `boxes` holds a list of [x0, y0, x1, y1, class], in parts of the image. Rows
    name files in the folder or below it; links there may lead elsewhere.

    A file that is missing or cannot be read, as well as one whose map is, is quarantined: the next
    readable one takes its place, always the same, so that batches keep their size and a resumed
    run sees the same examples.

    Args:
      path: the folder.
      text_column: column of the caption.
      class_column: column of the class; names are sorted and numbered, and rows without one are
        quarantined.
      max_bad_fraction: the run stops when more than this part of the files is quarantined.
      side_cars: which of segmentation, mask, boxes are read; None reads those that there are.

    Attributes:
      quarantine: path -> reason, filled as files are met.
    """

    def __init__(
        self,
        path: str = "",
        text_column: str = "text",
        class_column: str | None = None,
        max_bad_fraction: float = 0.01,
        side_cars: tuple[str, ...] | None = None,
    ):
        self.path, self.text_column, self.class_column = path, text_column, class_column
        self.side_cars = side_cars
        for name in side_cars or ():
            check_in("data.source.side_cars", name, _SIDE_CARS)
        self._root = check_root(path)
        super().__init__(str(self._root), max_bad_fraction)
        metadata = self._root / METADATA
        rows = read_metadata(metadata) if metadata.is_file() else None
        self._texts: list[str] | None = None
        self._classes: list[int] | None = None
        self._boxes: list[np.ndarray] | None = None
        if rows is None:
            self._files = list_images(self._root)
            labels = [file.parts[0] if len(file.parts) > 1 else None for file in self._files]
        else:
            self._files = [pathlib.PurePath(row["file_name"]) for row in rows]
            labels = self._read_columns(metadata, rows)
        if not self._files:
            raise UserError(
                f"data.source.path: no images in {self._root}. Expected {METADATA}, or files "
                f"ending in {', '.join(EXTENSIONS)}."
            )
        self._number_classes(labels)
        self._listing: dict[pathlib.Path, set[str]] = {}
        self._maps = self._find_maps(metadata, rows)
        self._read_boxes(metadata, rows)
        self._find_missing()

    def __repr__(self) -> str:
        more = "" if self.side_cars is None else f", side_cars={self.side_cars}"
        return (
            f"Folder(path={self.path!r}, text_column={self.text_column!r}, "
            f"class_column={self.class_column!r}, max_bad_fraction={self.max_bad_fraction}{more})"
        )

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """Returns the path of the image."""
        return str(self._root / self._files[index])

    def image_bytes(self, index: int) -> bytes:
        """Returns the file of an image."""
        return (self._root / self._files[index]).read_bytes()

    def load(self, index: int) -> dict[str, Any]:
        """Returns image uint8 [H, W, C], C in 1 .. 4, and what else is known of it."""
        example: dict[str, Any] = {"image": transforms.decode(self.name(index))}
        if self._texts is not None:
            example["text"] = self._texts[index]
        if self._classes is not None:
            example["class"] = self._classes[index]
        if self._boxes is not None:
            example["boxes"] = self._boxes[index]
        for name, files in self._maps.items():
            file = files[index].as_posix()
            example[name] = read_map(name, str(self._root / file), file, example["image"])
        return example

    def fingerprint(self) -> str:
        """Returns a hash of the names, sizes, captions and classes of all files."""
        digest = hashlib.sha256()
        for index, file in enumerate(self._files):
            text = self._texts[index] if self._texts is not None else None
            number = self._classes[index] if self._classes is not None else None
            facts = [file.as_posix(), self._size(file), text, number]
            facts += [self._size(files[index]) for files in self._maps.values()]
            facts += [self._boxes[index].tolist()] if self._boxes is not None else []
            digest.update(f"{json.dumps(facts)}\n".encode())
        return digest.hexdigest()

    def _size(self, file: pathlib.PurePath) -> int | None:
        return (self._root / file).stat().st_size if self._exists(file) else None

    def _wants(self, name: str) -> bool:
        return self.side_cars is None or name in self.side_cars

    def _find_maps(
        self, metadata: pathlib.Path, rows: list[dict] | None
    ) -> dict[str, list[pathlib.PurePath]]:
        """Returns the files of the maps that are read, by kind."""
        maps = {}
        for name in filter(self._wants, MAPS):
            if rows is not None and any(name in row for row in rows):
                for number, row in enumerate(rows, start=1):
                    if not isinstance(row.get(name), str) or not row[name]:
                        raise UserError(
                            f"{metadata}: row {number} has no {name}, a file name, as others have. "
                            f"Legal: one in every row, or data.source.side_cars without {name}."
                        )
                maps[name] = [
                    file_inside(f"{metadata}: row {number}", name, row[name])
                    for number, row in enumerate(rows, start=1)
                ]
                continue
            files = [file.with_name(f"{file.stem}.{name}.png") for file in self._files]
            if any(map(self._exists, files)):
                maps[name] = files
            elif self.side_cars is not None:
                raise UserError(
                    f"data.source.side_cars: no {name} in {self._root}. Expected files such as "
                    f"{shortened(str(files[0]))}, or the column {name} in {METADATA}."
                )
        return maps

    def _read_boxes(self, metadata: pathlib.Path, rows: list[dict] | None) -> None:
        if not self._wants("boxes"):
            return
        if rows is not None and any("boxes" in row for row in rows):
            found = []
            for number, row in enumerate(rows, start=1):
                try:
                    found.append(parse_boxes(row.get("boxes")))
                except BadExample as error:
                    raise UserError(
                        f"{metadata}: row {number}: {error}. Legal: such rows, or "
                        "data.source.side_cars without boxes."
                    ) from error
            self._boxes = pad_all_boxes(found)
        elif self.side_cars is not None:
            raise UserError(
                f"data.source.side_cars: no boxes in {self._root}. Expected the column boxes in "
                f"{METADATA}."
            )

    def _exists(self, file: pathlib.PurePath) -> bool:
        full = self._root / file
        if full.parent not in self._listing:
            self._listing[full.parent] = files_in(full.parent)
        return full.name in self._listing[full.parent]

    def _find_missing(self) -> None:
        missing = {}
        for index, file in enumerate(self._files):
            if not self._exists(file):
                missing[self.name(index)] = f"listed in {METADATA}, but missing or no file"
                continue
            for files in self._maps.values():
                if not self._exists(files[index]):
                    missing[self.name(index)] = f"{files[index].as_posix()}: missing or no file"
        if missing:
            self.set_aside(missing)

    def _read_columns(self, metadata: pathlib.Path, rows: list[dict]) -> list[str | None]:
        """Sets the captions and returns the class names, both as the rows give them."""
        if any(self.text_column in row for row in rows):
            self._texts = [str(row.get(self.text_column) or "") for row in rows]
        elif self.text_column != "text":
            raise UserError(no_column(metadata, "text_column", self.text_column, rows))
        if self.class_column is None:
            return [None] * len(rows)
        labels = [row.get(self.class_column) for row in rows]
        without = [index for index, label in enumerate(labels) if label is None]
        if len(without) == len(rows):
            raise UserError(no_column(metadata, "class_column", self.class_column, rows))
        if without:
            why = f"no {self.class_column!r} in its row of {METADATA}"
            self.set_aside({self.name(index): why for index in without})
        return [None if label is None else str(label) for label in labels]

    def _number_classes(self, labels: list[str | None]) -> None:
        named = [label for label in labels if label is not None]
        if not named:
            return
        if len(named) != len(labels) and self.class_column is None:
            raise UserError(
                f"data.source.path: {len(labels) - len(named)} images lie in {self._root} itself "
                f"and {len(named)} in its sub-folders. Legal: all here, or all in class folders."
            )
        # Whole numbers in their own order: class 10 comes after class 2, not before.
        whole = all(name.isascii() and name.isdigit() for name in named)
        self.class_names = tuple(sorted(set(named), key=int if whole else None))
        numbers = {name: number for number, name in enumerate(self.class_names)}
        # Rows without a class are in quarantine, so their number is read by nobody.
        self._classes = [-1 if label is None else numbers[label] for label in labels]
