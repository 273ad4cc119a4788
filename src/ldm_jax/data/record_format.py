"""Prepared data on disk: what is in the folder, and what a record is.

folder/dataset.json                         what it was made from, how, and how it is laid out
folder/examples-00000-of-00012.array_record a shard; under a name in .part until it is whole
folder/quarantine.jsonl                     what was left out: example, path, reason

A record is one line of JSON (text, class, boxes, and the lengths of the files that follow) and the
files of image, segmentation and mask, so that nothing in it can execute.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data import transforms
from ldm_jax.data.file_source import BadExample
from ldm_jax.data.shards import FORMAT, Sharded
from ldm_jax.data.side_cars import MAPS, as_mask, decode_map

DATASET = "dataset.json"
QUARANTINE = "quarantine.jsonl"
_FILES = ("image", *MAPS)


@dataclasses.dataclass(frozen=True)
class Dataset(Sharded):
    """What a folder of records is.

    Attributes:
      key: what its records follow from, JSON values by field: the source and how it is stored.
      num_examples: of the source, those that are left out included.
      examples_per_shard: of the source; the last shard may have fewer.
      class_names: of the source.
      counts: records of each shard; None until all are written.
    """

    manifest = DATASET
    prefix = "examples"

    key: Mapping[str, Any]
    num_examples: int
    examples_per_shard: int
    class_names: tuple[str, ...] | None = None
    counts: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.num_examples


def read_dataset(folder: str | Path) -> Dataset:
    """Returns what a folder of records is, complete or not.

    Raises:
      UserError: there is none, or dataset.json is damaged or of another version.
    """
    path = Path(folder).expanduser() / DATASET
    if not path.is_file():
        raise UserError(f"{path}: not found; expected a folder that 'ldm-jax data prepare' wrote.")
    try:
        fields = json.loads(read_text(path, "dataset"))
        version = fields.pop("format")
        if version == FORMAT:
            names, counts = fields.pop("class_names"), fields.pop("counts")
            dataset = Dataset(
                key=dict(fields.pop("key")),
                class_names=None if names is None else tuple(map(str, names)),
                counts=None if counts is None else tuple(map(int, counts)),
                **{name: int(value) for name, value in fields.items()},
            )
            if min(dataset.num_examples, dataset.examples_per_shard) < 1:
                raise ValueError("a size below 1")
            if counts is not None and len(counts) != dataset.num_shards:
                raise ValueError(f"{len(counts)} counts of {dataset.num_shards} shards")
            return dataset
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}).") from error
    raise UserError(f"{path}: format {version!r}. Legal: {FORMAT}, by preparing a new folder.")


def pack(example: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Returns a record.

    Args:
      example: as a source gives it; of this text, class and boxes are kept.
      files: of image, segmentation and mask, as far as the example has them.
    """
    header: dict[str, Any] = {name: example[name] for name in ("text", "class") if name in example}
    if "boxes" in example:
        header["boxes"] = np.asarray(example["boxes"], np.float32).tolist()
    header["files"] = {name: len(content) for name, content in files.items()}
    return json.dumps(header).encode() + b"\n" + b"".join(files.values())


def split_record(record: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns text, class and boxes of a record, and its files: what `pack` was given.

    Raises:
      BadExample: it is no such record.
    """
    end = max(record.find(b"\n"), 0)
    try:
        header = json.loads(record[:end])
        lengths = header.pop("files")
        files, start = {}, end + 1
        for name, length in lengths.items():
            if name not in _FILES or not isinstance(length, int) or length < 0:
                raise ValueError(f"file {name!r} of length {length!r}")
            files[name] = record[start : start + length]
            start += length
        if start != len(record) or "image" not in files:
            raise ValueError(f"{len(record)} bytes, expected {start}, with an image")
        return {name: _check_label(name, value) for name, value in header.items()}, files
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadExample(f"damaged record ({type(error).__name__}: {error})") from error


def unpack(record: bytes) -> dict[str, Any]:
    """Returns the example in a record, as a source gives it.

    Raises:
      BadExample: it is no such record.
      OSError, SyntaxError, ValueError, ...: whatever Pillow raises for a broken file.
    """
    labels, files = split_record(record)
    example: dict[str, Any] = {"image": transforms.decode(io.BytesIO(files.pop("image"))), **labels}
    for name, content in files.items():
        numbers = decode_map(io.BytesIO(content))
        example[name] = as_mask(numbers) if name == "mask" else numbers
    return example


def _check_label(name: str, value: Any) -> Any:
    if name == "boxes":
        return np.asarray(value, np.float32).reshape(-1, 5)
    kind = {"text": str, "class": int}.get(name)
    if kind is None or not isinstance(value, kind):
        raise ValueError(f"label {name!r} is {value!r}")
    return value
