"""Images in tar files, as WebDataset lays them out, read at random without unpacking them."""

import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from ldm_jax.core.checks import UserError, shortened
from ldm_jax.data import transforms
from ldm_jax.data.file_source import UNREADABLE, BadExample, FileSource
from ldm_jax.data.side_cars import pad_boxes, parse_boxes, read_map
from ldm_jax.data.tar_index import Sample, find_tars, index_tar

_IMAGES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")
_CAPTIONS = ("txt", "caption", "text")
_LABELS = (*_CAPTIONS, "cls", "json")
_MAPS = {"segmentation": ("seg.png", "segmentation.png"), "mask": ("mask.png",)}


class WebDataset(FileSource):
    """Samples of tar files: members whose names are the same up to the first dot.

    `key.jpg` (or .png, .webp) is the image, `key.txt` (or .caption) its caption, `key.cls` the
    number of its class, `key.seg.png` and `key.mask.png` its maps. `key.json` serves where there is
    no such member: its `text_column`, its `class_column` (a whole number), its `boxes`.

    Only the headers are read at the start, and nothing is ever unpacked to disk; without captions
    of their own, also the .json until one has the `text_column`, so that no caption is overlooked.
    A sample that cannot be read, or lacks what others have, is quarantined as by `Folder`; a
    missing caption is empty.

    Args:
      path: a folder of .tar files, one of them, or a pattern: `shards/train-*.tar`,
        `shards/train-{000..041}.tar`. Compressed tar files are refused.
      text_column: of key.json, the caption.
      class_column: of key.json, the class.
      num_boxes: rows of `boxes`, of key.json: a list of [x0, y0, x1, y1, class] in parts of the
        image; 0 reads none.
      max_bad_fraction: the run stops when more than this part of the samples is quarantined.

    Attributes:
      quarantine: `FILE.tar/key` -> reason, filled as samples are met.
    """

    def __init__(
        self,
        path: str = "",
        text_column: str = "text",
        class_column: str | None = None,
        num_boxes: int = 0,
        max_bad_fraction: float = 0.01,
    ):
        if num_boxes < 0:
            raise UserError(f"data.source.num_boxes: got {num_boxes}. Legal: 0 or more.")
        super().__init__(path, max_bad_fraction)
        self.path, self.text_column, self.class_column = path, text_column, class_column
        self.num_boxes = num_boxes
        self._samples = [sample for tar in find_tars(path) for sample in index_tar(tar)]
        there = {extension for sample in self._samples for extension in sample.members}
        if not there & set(_IMAGES):
            found = shortened(_listed(sorted(there)[:10]))
            raise UserError(
                f"data.source.path: no images in the tar files of {path!r}. Expected members "
                f"ending in {_listed(_IMAGES)}; found: {found}."
            )
        self._has_class = "cls" in there or class_column is not None
        self._maps = [name for name, endings in _MAPS.items() if there & set(endings)]
        self._has_text = bool(there & set(_CAPTIONS)) or ("json" in there and self._json_has_text())

    def __repr__(self) -> str:
        return (
            f"WebDataset(path={self.path!r}, text_column={self.text_column!r}, "
            f"class_column={self.class_column!r}, num_boxes={self.num_boxes}, "
            f"max_bad_fraction={self.max_bad_fraction})"
        )

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """Returns the tar file and the key in it."""
        return f"{self._samples[index].tar}/{self._samples[index].key}"

    def image_bytes(self, index: int) -> bytes:
        """Returns the member that is the image."""
        sample = self._samples[index]
        return sample.read(_find(sample, _IMAGES, "image"))

    def load(self, index: int) -> dict[str, Any]:
        """Returns image uint8 [H, W, C], C in 1 .. 4, and what else is known of it."""
        sample = self._samples[index]
        fields = _fields(sample.read("json")) if "json" in sample.members else {}
        example: dict[str, Any] = {"image": transforms.decode(io.BytesIO(self.image_bytes(index)))}
        if self._has_text:
            example["text"] = self._text(sample, fields)
        if self._has_class:
            example["class"] = self._class(sample, fields)
        if self.num_boxes:
            example["boxes"] = pad_boxes(parse_boxes(fields.get("boxes")), self.num_boxes)
        for name in self._maps:
            member = _find(sample, _MAPS[name], name)
            stored = io.BytesIO(sample.read(member))
            example[name] = read_map(name, stored, member, example["image"])
        return example

    def fingerprint(self) -> str:
        """Returns a hash of all members' names, sizes and times, and of captions and classes."""
        digest = hashlib.sha256()
        for sample, tar in self._opened():
            facts = {name: (member.size, member.mtime) for name, member in sample.members.items()}
            digest.update(f"{json.dumps([sample.tar.name, sample.key, facts])}\n".encode())
            for name in _LABELS:
                if name in sample.members:  # which are small
                    digest.update(sample.members[name].read(tar))
        return digest.hexdigest()

    def _json_has_text(self) -> bool:
        """Returns whether any sample's json has the caption; one that is broken has none."""
        for sample, tar in self._opened():
            member = sample.members.get("json")
            try:
                if member is not None and self.text_column in _fields(member.read(tar)):
                    return True
            except UNREADABLE:
                continue  # quarantined when the sample is read
        return False

    def _opened(self) -> Iterator[tuple[Sample, BinaryIO]]:
        """Yields every sample with its tar file, which is opened once for all of its samples."""
        for tar, samples in itertools.groupby(self._samples, key=lambda sample: sample.tar):
            with tar.open("rb") as file:
                for sample in samples:
                    yield sample, file

    def _text(self, sample: Sample, fields: dict[str, Any]) -> str:
        for extension in _CAPTIONS:
            if extension in sample.members:
                return sample.read(extension).decode("utf-8-sig").strip()
        return str(fields.get(self.text_column) or "")

    def _class(self, sample: Sample, fields: dict[str, Any]) -> int:
        column = self.class_column
        if column is None:
            value = sample.read(_find(sample, ("cls",), "class")).decode().strip()
        elif fields.get(column) is None:
            raise BadExample(f"no {column!r} in its json")
        else:
            value = str(fields[column])
        if not (value.isascii() and value.isdigit()):
            raise BadExample(f"class {value[:40]!r}, expected a whole number")
        return int(value)


def _find(sample: Sample, endings: tuple[str, ...], what: str) -> str:
    """Returns the first ending that the sample has."""
    for ending in endings:
        if ending in sample.members:
            return ending
    raise BadExample(f"no {what} among its members {_listed(sample.members)}")


def _listed(extensions: Iterable[str]) -> str:
    return ", ".join(f".{extension}" for extension in extensions)


def _fields(content: bytes) -> dict[str, Any]:
    fields = json.loads(content)
    if not isinstance(fields, dict):
        raise BadExample("its json is no object")
    return fields
