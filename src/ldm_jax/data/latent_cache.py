"""Images as a first stage sees them: posterior moments on disk, written once, read in training.

folder/cache.json                          what was encoded, with what, and how it is laid out
folder/moments-00000-of-00012.array_record a shard; under a name in .part until it is whole

A record is one line of JSON (class and text, where the source has them), the raw moments, and the
answers of a frozen conditioner if they were asked for, so that nothing in a file can execute.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data.shards import FORMAT, Sharded

MANIFEST = "cache.json"
_DTYPE = np.dtype("<f4")
_LABELS: dict[str, type] = {"class": int, "text": str}


@dataclasses.dataclass(frozen=True)
class Manifest(Sharded):
    """What a cache is.

    Attributes:
      key: what its numbers follow from, JSON values by field: `first_stage` (a hash), the
        preprocessing, `num_examples` and what else tells sources apart; see
        `ldm_jax.train.cache_key`.
      shape: (k, h, w, m) of an example's moments: k = 2 with the mirror image, otherwise 1.
      examples_per_shard: the last one may have fewer.
      class_names: of the source.
      conditioning: shape of an example's answer on each route of a frozen conditioner, such as
        'context': (77, 768); their type is the key's field 'conditioning'. Empty without any.
    """

    manifest = MANIFEST
    prefix = "moments"

    key: Mapping[str, Any]
    shape: tuple[int, ...]
    examples_per_shard: int
    class_names: tuple[str, ...] | None = None
    conditioning: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def conditioning_dtype(self) -> np.dtype:
        """The type of what is kept of a conditioner, in little-endian order."""
        return np.dtype(str(self.key.get("conditioning", "float32"))).newbyteorder("<")

    def __len__(self) -> int:
        return int(self.key["num_examples"])


def read_manifest(folder: str | Path) -> Manifest:
    """Returns what a cache is, complete or not.

    Raises:
      UserError: there is none, or cache.json is damaged or of another version.
    """
    path = Path(folder).expanduser() / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: not found; expected a folder that 'ldm-jax encode' wrote.")
    try:
        fields = json.loads(read_text(path, "latent cache"))
        version = fields.pop("format")
        if version == FORMAT:
            names = fields.pop("class_names")
            manifest = Manifest(
                key=dict(fields.pop("key")),
                shape=tuple(map(int, fields.pop("shape"))),
                class_names=None if names is None else tuple(map(str, names)),
                conditioning={
                    str(route): tuple(map(int, shape))
                    for route, shape in fields.pop("conditioning", {}).items()
                },
                **{name: int(value) for name, value in fields.items()},
            )
            if min(*manifest.shape, len(manifest), manifest.examples_per_shard) < 1:
                raise ValueError("a size below 1")
            return manifest
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}).") from error
    raise UserError(f"{path}: format {version!r}. Legal: {FORMAT}, by encoding into a new folder.")


def pack(
    moments: np.ndarray, labels: Mapping[str, Any], conditioning: Sequence[np.ndarray] = ()
) -> bytes:
    """Returns a record.

    Args:
      moments: [k, h, w, m].
      labels: class and text, if any.
      conditioning: of each route, in the order of the manifest and of its type.
    """
    arrays = [moments.astype(_DTYPE), *conditioning]
    return b"".join([json.dumps(labels).encode(), b"\n", *(x.tobytes() for x in arrays)])


def unpack(record: bytes, manifest: Manifest) -> dict[str, Any]:
    """Returns moments, float32, labels, and conditioning by route; the inverse of `pack`.

    Raises:
      ValueError: it is no such record.
    """
    end = record.find(b"\n")
    labels = json.loads(record[: max(end, 0)])
    kinds = {"moments": (manifest.shape, _DTYPE)}
    kinds |= {
        route: (shape, manifest.conditioning_dtype)
        for route, shape in manifest.conditioning.items()
    }
    arrays, start = {}, end + 1
    for name, (shape, dtype) in kinds.items():
        arrays[name] = np.frombuffer(record, dtype, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    if start != len(record):
        raise ValueError(f"{len(record)} bytes, expected {start}")
    if not isinstance(labels, dict):
        raise ValueError("no labels")
    for name, value in labels.items():
        if not isinstance(value, _LABELS.get(name, ())):
            raise ValueError(f"a label {name!r}")
    return {**arrays, **labels}


class LatentCache:
    """Moments in place of the images of a source, from a folder of `ldm-jax encode`.

    Example i is that of the source: `moments` float32 [k, h, w, m], the image's and, if k = 2, its
    mirror image's; `class` and `text` as the source has them; and what a frozen conditioner made of
    them, `context` [m, d] or `embedding` [e], if it was encoded too.

    Args:
      path: the folder.

    Raises:
      UserError: it is no cache, or not complete.
    """

    def __init__(self, path: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.path = path
        self._manifest = manifest = read_manifest(path)
        self.class_names = manifest.class_names
        folder = Path(path).expanduser()
        files = [folder / manifest.shard(number)[0] for number in range(manifest.num_shards)]
        there = sum(file.is_file() for file in files)
        if there < len(files):
            raise UserError(
                f"{path}: the cache is not complete, {there} of {len(files)} shards are there. "
                "Legal: the command 'ldm-jax encode' that began it, again."
            )
        try:
            self._records = ArrayRecordDataSource([str(file) for file in files])
            found = len(self._records)
            if found != len(manifest):
                raise RuntimeError(f"{found} records, expected {len(manifest)}")
        except RuntimeError as error:
            raise UserError(
                f"{path}: a shard is damaged ({error}). Legal: the command 'ldm-jax encode' that "
                "wrote it, again."
            ) from error

    def __repr__(self) -> str:
        return f"LatentCache(path={self.path!r})"

    def __len__(self) -> int:
        return len(self._manifest)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns moments; class and text where the source has them; and conditioning."""
        try:
            return unpack(self._records[int(index)], self._manifest)
        except (ValueError, RuntimeError) as error:
            shard, _ = self._manifest.shard(int(index) // self._manifest.examples_per_shard)
            raise UserError(
                f"{self.path}: example {index} is damaged ({error}). Legal: without {shard}, the "
                "command 'ldm-jax encode' that wrote it, again."
            ) from error
