"""Encoding a data set once: posterior moments of every example, in shards on disk."""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build
from ldm_jax.core.types import Array, PyTree
from ldm_jax.data import SOURCES
from ldm_jax.data.latent_cache import MANIFEST, Manifest, pack, read_manifest
from ldm_jax.data.shards import count_records, write_shard
from ldm_jax.data.transforms import WHITE, transform_example
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.multihost import check_same, gather, is_first
from ldm_jax.parallel.sharding import batch_sharding, put_batch, shardings
from ldm_jax.tasks.base import to_float_images
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.assemble_data import build_tokenizer
from ldm_jax.train.cache_key import conditioner_key, content_key, preprocessing_key
from ldm_jax.train.cached_conditions import (
    ConditionEncoder,
    answer_shapes,
    make_condition_encoder,
)
from ldm_jax.train.condition_checks import check_tokenizer
from ldm_jax.train.fingerprint import first_stage_hash
from ldm_jax.train.frozen import load_first_stage
from ldm_jax.train.load import load_conditioner
from ldm_jax.train.lock import workdir_lock
from ldm_jax.train.pod_preflight import check_data, check_pod, check_shards
from ldm_jax.train.preflight import check_encode

_SLOWEST_S = 7 * 24 * 3600  # that one process may take longer than another

Encoder = Callable[[np.ndarray], Array]
Progress = Callable[[int, int], object]


class Encoded(NamedTuple):
    """What was done, by all processes together.

    Attributes:
      images: encoded now, mirror images not counted.
      shards: written now.
      shards_before: that were whole already.
      num_bytes: of all shards.
      seconds: of encoding and writing, compilation included; those of the slowest.
    """

    images: int
    shards: int
    shards_before: int
    num_bytes: int
    seconds: float


def encode(
    config: ConfigDict,
    out: str | Path,
    *,
    per_device_batch: int = 32,
    examples_per_shard: int = 2048,
    conditioning: str | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Writes the posterior moments of all examples of `config.data.source` to a folder.

    Images are cropped in the middle and resized as in training; mirror images are encoded too if
    `config.data.flip_probability` is above 0. Whole shards that are there are kept, so the same
    call goes on where a killed one ended. Shards are dealt to processes in turn; each splits its
    batches over its own devices and needs no other.

    Args:
      config: of the diffusion model that will train on the moments.
      out: the folder; new, or of an earlier call.
      per_device_batch: examples that a device encodes at once.
      examples_per_shard: as it says.
      conditioning: 'float16' or 'float32' also writes, in that type, what a frozen conditioner
        answers to each example's text or class; training then needs no conditioner. None does not.
      progress: called with the number of images done, those of whole shards first, and of all.

    Raises:
      UserError: a mistake in the configuration, or a folder that holds something else.
    """
    task = check_encode(config, out, per_device_batch, examples_per_shard, conditioning)
    config, out = config.copy_and_resolve_references(), Path(out).expanduser()
    check_pod(config, out, f"--out={out}")
    mesh = make_mesh(devices=jax.local_devices())
    params = load_first_stage(config, task, mesh)
    source = build("config.data.source", SOURCES, config.data.source)
    check_data(source)
    manifest = _manifest(config, task, params, source, examples_per_shard)
    check_shards(manifest.num_shards, examples_per_shard, len(source))
    answer: ConditionEncoder | None = None
    tokenizer = build_tokenizer(config) if conditioning else None
    if conditioning:
        check_tokenizer(task, tokenizer)
        tower = load_conditioner(config, task, mesh)
        manifest = _with_conditioning(manifest, config, task, tower, tokenizer, conditioning)
        answer = make_condition_encoder(task, mesh, tower, conditioning)
    with workdir_lock(out, f"--out={out}", "encoding"):
        if is_first():
            _claim(out, manifest)
        # Others wait here for the first process, which holds the lock.
        check_same(
            "the cache", json.dumps(dict(manifest.key), sort_keys=True), "the same model, data"
        )
        mine = range(jax.process_index(), manifest.num_shards, jax.process_count())
        missing = [number for number in mine if not _is_whole(out, manifest, number)]
        total = _examples(manifest, mine)

        def report(count: int) -> None:
            if progress is not None:
                progress(count, total)

        report(total - _examples(manifest, missing))
        start = time.monotonic()
        encode_batch = _make_encoder(task, mesh, params)
        size, flips = per_device_batch * mesh.size, manifest.key["flips"]
        reading = config.data.get("num_threads", 8), config.data.get("prefetch", 16)
        for number in missing:
            name, numbers = manifest.shard(number)
            inputs = task.conditioner.inputs if answer else ()
            batches = _Batches(config, source, numbers, size, flips, inputs, tokenizer)
            write_shard(out / name, _records(batches, encode_batch, answer, reading, report))
        seconds = time.monotonic() - start
    quarantine = getattr(source, "quarantine", {})
    if quarantine:
        logging.warning("%d of %d files were quarantined", len(quarantine), len(source))
    sizes = [(out / manifest.shard(number)[0]).stat().st_size for number in mine]
    before = len(mine) - len(missing)
    own = Encoded(_examples(manifest, missing), len(missing), before, sum(sizes), seconds)
    each = [Encoded(*json.loads(x)) for x in gather("encoding", json.dumps(own), _SLOWEST_S)]
    return Encoded(
        images=sum(done.images for done in each),
        shards=sum(done.shards for done in each),
        shards_before=sum(done.shards_before for done in each),
        num_bytes=sum(done.num_bytes for done in each),
        seconds=max(done.seconds for done in each),
    )


def _manifest(
    config: ConfigDict, task: LatentDiffusionTask, params: Any, source: Any, examples_per_shard: int
) -> Manifest:
    digest = first_stage_hash(task.first_stage.model, params)
    key = {"first_stage": digest, **preprocessing_key(config), **content_key(source)}
    size = config.data.image_size
    return Manifest(
        key=key,
        shape=(1 + key["flips"], *task.first_stage.moments_shape(size, size)),
        examples_per_shard=examples_per_shard,
        class_names=source.class_names,
    )


def _with_conditioning(
    manifest: Manifest,
    config: ConfigDict,
    task: LatentDiffusionTask,
    params: PyTree,
    tokenizer: Any,
    dtype: str,
) -> Manifest:
    key = conditioner_key(task.conditioner, params, config, tokenizer)
    return dataclasses.replace(
        manifest,
        key={**manifest.key, "conditioning": dtype, **key},
        conditioning=answer_shapes(task, params),
    )


def _claim(out: Path, manifest: Manifest) -> None:
    """Writes cache.json, or checks that the one there is the same.

    Raises:
      UserError: it differs, or the folder holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / MANIFEST).is_file():
        there = read_manifest(out)
        for field in dict.fromkeys((*manifest.key, *there.key)):
            _check_same(out, field, there.key.get(field), manifest.key.get(field))
        size = "examples_per_shard"
        _check_same(out, size, getattr(there, size), getattr(manifest, size))
        return
    shards = {manifest.shard(number)[0] for number in range(manifest.num_shards)}
    own = {"lock", f"{MANIFEST}.tmp", *shards, *(f"{name}.part" for name in shards)}
    strangers = [p.name for p in out.iterdir() if p.name not in own]
    if strangers:
        raise UserError(
            f"--out={out}: holds {sorted(strangers)[0]} and no {MANIFEST}. Legal: a new folder."
        )
    manifest.write(out)


def _check_same(out: Path, field: str, got: Any, value: Any) -> None:
    if got != value:
        raise UserError(
            f"--out={out}: holds a cache whose {field} is {got!r}, not {value!r}. Legal: the same "
            "value, or a new folder."
        )


def _is_whole(out: Path, manifest: Manifest, number: int) -> bool:
    name, numbers = manifest.shard(number)
    return count_records(out / name) == len(numbers)


def _examples(manifest: Manifest, shards: Sequence[int]) -> int:
    return sum(len(manifest.shard(number)[1]) for number in shards)


class _Batches:
    """Random access to batches of some of a source's examples, as training crops and resizes them.

    Batch i is (uint8 [size, k, H, W, C], what the conditioner reads by name [size, …], labels of
    each example); mirror images come second. The last batch has fewer labels, and is filled up.
    """

    def __init__(
        self,
        config: ConfigDict,
        source: Any,
        numbers: range,
        size: int,
        flips: bool,
        inputs: Sequence[str] = (),
        tokenizer: Any = None,
    ):
        data = config.data
        self._source, self._numbers, self._size = source, numbers, size
        self._inputs, self._tokenizer = inputs, tokenizer
        self._flips = (0.0, 1.0) if flips else (0.0,)
        self._settings = {
            "image_size": data.image_size,
            "channels": data.get("channels") or 3,
            "background": data.get("background") or WHITE,
        }

    def __len__(self) -> int:
        return math.ceil(len(self._numbers) / self._size)

    def __getitem__(
        self, index: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray], list[dict[str, Any]]]:
        numbers = self._numbers[index * self._size : (index + 1) * self._size]
        examples = [self._source[number] for number in numbers]
        images = [self._images(example["image"]) for example in examples]
        inputs = {name: [self._read(name, x) for x in examples] for name in self._inputs}
        for rows in (images, *inputs.values()):
            rows += [rows[-1]] * (self._size - len(rows))
        labels = [{k: x[k] for k in ("class", "text") if k in x} for x in examples]
        return np.stack(images), {name: np.stack(x) for name, x in inputs.items()}, labels

    def _read(self, name: str, example: dict[str, Any]) -> np.ndarray:
        if name == "tokens":
            return self._tokenizer(example["text"])
        return np.asarray(example[name], np.int32)

    def __repr__(self) -> str:
        return f"_Batches({self._numbers}, {self._size})"

    def _images(self, image: np.ndarray) -> np.ndarray:
        unused = np.random.default_rng(0)  # the crop is central, the flip certain
        return np.stack(
            [
                transform_example(
                    {"image": image}, unused, flip_probability=flip, **self._settings
                )["image"]
                for flip in self._flips
            ]
        )


def _make_encoder(task: LatentDiffusionTask, mesh: Mesh, params: PyTree) -> Encoder:
    """Returns uint8 [n, H, W, C] -> float32 [n, h, w, m], rows split over the devices."""

    def moments(params: PyTree, images_u8: Array) -> Array:
        return task.first_stage.moments(params, to_float_images(images_u8))

    rows = batch_sharding(mesh)
    compiled = jax.jit(
        moments,
        in_shardings=(shardings(mesh, params), rows),
        out_shardings=rows,
        compiler_options=compiler_options(mesh),
    )

    def encode_batch(images: np.ndarray) -> Array:
        with jax.set_mesh(mesh):  # by which a TPU's attention kernel knows its part
            return compiled(params, put_batch(mesh, images))

    return encode_batch


def _records(
    batches: _Batches,
    encode_batch: Encoder,
    answer: ConditionEncoder | None,
    reading: tuple[int, int],
    report: Callable[[int], object],
) -> Iterator[bytes]:
    """Yields a record per example; a batch is encoded while the one before it is written."""
    import grain  # costs a second to import

    num_threads, prefetch = reading
    options = grain.ReadOptions(
        num_threads=min(num_threads, prefetch), prefetch_buffer_size=prefetch
    )
    loaded = grain.MapDataset.source(batches).to_iter_dataset(options)
    before: tuple[Array, list[Array], tuple[int, ...], list[dict[str, Any]]] | None = None
    for batch in itertools.chain(loaded, [None]):
        started = None
        if batch is not None:
            images, inputs, labels = batch
            started = (
                encode_batch(images.reshape(-1, *images.shape[2:])),
                answer(inputs) if answer else [],
                images.shape[:2],
                labels,
            )
        if before is not None:
            moments, answers, shape, labels = before
            by_example = np.asarray(moments).reshape(*shape, *moments.shape[1:])
            by_route = [np.asarray(x) for x in answers]
            for row, its_labels in enumerate(labels):
                yield pack(by_example[row], its_labels, [x[row] for x in by_route])
            report(len(labels))
        before = started
