"""The images of an evaluation, and bringing the features of all of them to disk.

OUT/<samples>/<reader>/rows-….npz           features of the samples
OUT/bound-<set>/<model>/rows-….npz          terms of the bound, of real images
CACHE/reference-<set>/<reader>/rows-….npz   features of real images, or embeddings of captions

Each name is a hash of what the content follows from, so another seed, checkpoint or sampler has
another folder, and no run reads what is not its own.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ldm_jax.parallel.multihost import check_same, gather, is_first
from ldm_jax.train.bound import Bound
from ldm_jax.train.code_version import code_version
from ldm_jax.train.feature_log import FeatureLog, digest
from ldm_jax.train.feature_readers import Reader
from ldm_jax.train.likelihood import Likelihood
from ldm_jax.train.reference_set import ReferenceSet
from ldm_jax.train.sample_set import SampleSet
from ldm_jax.train.scores import METRICS, Features

_SLOWEST_S = 7 * 24 * 3600  # that one process may take longer than another

# (what is read, images done now, images in all)
Progress = Callable[[str, int, int], object]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is compared with what.

    Attributes:
      samples: images of the model.
      count: how many of them.
      reference: real images.
      reference_count: how many of them.
      conditions: what conditions the samples, or None.
      readers: what reads samples: 'extractor', 'clip', and paired metrics by their names.
      captions: what reads captions, or None.
      mesh: of the devices.
      bound: what measures the variational bound on the real images, if that is wanted.
    """

    samples: SampleSet
    count: int
    reference: ReferenceSet
    reference_count: int
    conditions: ReferenceSet | None
    readers: Mapping[str, Reader]
    captions: Reader | None
    mesh: Mesh
    bound: Bound | None = None

    @property
    def folder(self) -> str:
        """The name of the samples' folder."""
        return digest(self.samples.key)

    def pins(self) -> dict[str, dict[str, Any]]:
        """Returns what the scores follow from, as JSON, in the groups that a report shows."""
        shown = {k: v for k, v in self.samples.key.items() if k not in ("task", "conditions")}
        shown.pop("images", None)
        pins: dict[str, dict[str, Any]] = {
            "samples": {
                "count": self.count,
                **shown,
                "conditions": None if self.conditions is None else _shown(self.conditions, None),
                "hash": self.folder,
            },
            "reference": _shown(self.reference, self.reference_count),
            "preprocessing": dict(self.reference.preprocessing),
            **{name: dict(reader.key) for name, reader in self.readers.items()},
            "model": dict(self.samples.key["task"]),
        }
        if self.bound is not None:
            pins["bound"] = {x: self.bound.reader.key[x] for x in ("variance", "seed")}
        found: dict[str, dict[str, Any]] = json.loads(json.dumps(pins))
        return found

    def fill(
        self,
        metrics: Iterable[str],
        out: Path,
        cache: Path,
        images_per_file: int,
        progress: Progress | None,
    ) -> dict[str, FeatureLog]:
        """Returns the logs that metrics need, with all rows in them.

        Args:
          metrics: by name.
          out: folder of what is read of samples, in a folder for each set of them.
          cache: likewise, of real images.
          images_per_file: at the least, but for the last.
          progress: see `Progress`.

        Returns:
          Logs of samples by the name of their reader, and 'reference' and 'captions'.
        """
        metrics = tuple(metrics)
        uses = [METRICS[name] for name in metrics]
        names = {name for name in metrics if name in self.readers}
        names |= {"extractor"} if any(use.output for use in uses) else set()
        each = -(-images_per_file // self.samples.at_once) * self.samples.at_once
        own = {name: self.readers[name] for name in sorted(names)}
        logs = {name: _log(out / self.folder, self.samples.key, x) for name, x in own.items()}
        pairs = [(reader, logs[name]) for name, reader in own.items()]
        if any(use.uses_reference for use in uses):
            reader, real = self.readers["extractor"], self.reference
            logs["reference"] = log = _log(_folder(cache, real), real.key, reader)
            _fill([(reader, log)], real.images, self.reference_count, each, progress, "reference")
        if "clip" in names and self.captions is not None and self.conditions is not None:
            texts = self.conditions
            logs["captions"] = log = _log(_folder(cache, texts), texts.key, self.captions)
            several = [(self.captions, log)]
            _fill(several, texts.captions, self._captions(texts), each, progress, "captions")
        if "bound" in metrics and self.bound is not None:
            reader, one = self.bound.reader, self.bound.at_once
            folder = out / f"bound-{digest(self.reference.key)}"
            logs["bound"] = log = _log(folder, self.reference.key, reader)
            several, each_run = [(reader, log)], -(-images_per_file // one) * one
            _fill(several, self.bound.draw, self.reference_count, each_run, progress, "bound")
        if pairs:
            _fill(pairs, self.samples.draw, self.count, each, progress, self.samples.what)
        gather("features", "", _SLOWEST_S)  # now the others may read what the first has written
        return logs

    def features(self, logs: Mapping[str, FeatureLog]) -> Features:
        """Returns what scores are computed from, read when it is asked for."""

        def embeddings() -> tuple[np.ndarray, np.ndarray]:
            assert self.conditions is not None
            texts = logs["captions"].read(self._captions(self.conditions), "features")
            own = np.arange(self.count) % len(texts)
            return logs["clip"].read(self.count, "features"), texts[own]

        @functools.cache  # the scores and the profile are of one summary
        def bound() -> Likelihood:
            assert self.bound is not None
            log, shapes = logs["bound"], self.bound.reader.shapes
            return self.bound.summarize(
                {name: log.read(self.reference_count, name) for name in shapes}
            )

        extractor, clip = (self.readers.get(name) for name in ("extractor", "clip"))
        return Features(
            samples=lambda output: logs["extractor"].read(self.count, output),
            reference=lambda output: logs["reference"].read(self.reference_count, output),
            captions=embeddings,
            pairs=lambda metric: logs[metric].read(self.count, metric),
            extractor=extractor.key["name"] if extractor else "",
            clip=clip.key["name"] if clip else "",
            mesh=self.mesh,
            bound=bound,
        )

    def made_by(self, logs: Mapping[str, FeatureLog]) -> dict[str, list[str]]:
        """Returns the versions of the code that made what is in the logs."""
        counts = dict.fromkeys(("reference", "bound"), self.reference_count)
        return {name: log.made_by(counts.get(name, self.count)) for name, log in logs.items()}

    def _captions(self, texts: ReferenceSet) -> int:
        return min(self.count, len(texts))


def _shown(images: ReferenceSet, count: int | None) -> dict[str, Any]:
    """Returns what a report says of real images, and of how many of them are used."""
    of = {"count": len(images)} if count is None else {"count": count, "of": len(images)}
    part, split = images.key["part"], images.key["split"]
    return {"set": part, "split": split, **of, "hash": digest(images.key)}


def _folder(cache: Path, images: ReferenceSet) -> Path:
    return cache / f"reference-{digest(images.key)}"


def _log(folder: Path, images: Mapping[str, Any], reader: Reader) -> FeatureLog:
    key = {"images": dict(images), "reader": dict(reader.key)}
    return FeatureLog(folder / digest(reader.key), key, reader.shapes)


def _fill(
    logs: list[tuple[Reader, FeatureLog]],
    draw: Callable[[np.ndarray], Any],
    count: int,
    each: int,
    progress: Progress | None,
    what: str,
) -> None:
    """Draws the images that a log lacks, once for all logs, and appends what is read of them."""
    lacks = [~log.has(count) for _, log in logs]
    missing = np.flatnonzero(np.any(lacks, axis=0))
    check_same("the number of features that are missing", len(missing), "a shared file system")
    if progress is not None and len(missing):
        progress(what, count - len(missing), count)
    for start in range(0, len(missing), each):
        numbers = missing[start : start + each]
        images = draw(numbers)
        for (reader, log), lack in zip(logs, lacks, strict=True):
            if lack[numbers].any():
                rows = reader.read(numbers, images)
                if is_first():
                    log.append(numbers, rows, code_version())
        if progress is not None:
            progress(what, len(numbers), count)
