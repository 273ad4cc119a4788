"""Evaluating a trained run: images straight into features on disk, features into a report.

OUT/<samples>/report-<pins>.json, .md   numbers, and all that made them
OUT/<samples>/bound-<pins>.npz          the variational bound, by timestep

Where features lie is told in `evaluation_work`. What is there already is never computed again: the
same call goes on where a killed one ended, and of a finished one it reads the report.
"""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import batch_shards, make_mesh
from ldm_jax.parallel.multihost import check_same, gather, is_first
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.bound import write_profile
from ldm_jax.train.code_version import code_version
from ldm_jax.train.evaluation_report import Report
from ldm_jax.train.evaluation_request import (
    Chosen,
    Wanted,
    check_outputs,
    check_wanted,
    choose_counts,
)
from ldm_jax.train.evaluation_work import Progress, Work
from ldm_jax.train.feature_log import digest
from ldm_jax.train.feature_readers import (
    PAIRED,
    Reader,
    caption_reader,
    extractor_reader,
    make_extractor,
    pair_reader,
)
from ldm_jax.train.lock import workdir_lock
from ldm_jax.train.reference_set import TRAIN, ReferenceSet, open_reference
from ldm_jax.train.sample_set import open_reconstructions, open_samples
from ldm_jax.train.scores import METRICS

_IMAGES_PER_FILE = 256  # what a kill may cost


def evaluate(
    config: ConfigDict,
    workdir: str | Path,
    wanted: Wanted,
    *,
    out: str | Path,
    cache: str | Path | None = None,
    per_device_batch: int = 32,
    images_per_file: int = _IMAGES_PER_FILE,
    progress: Progress | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Returns the path of the report, and the report with the scores that are wanted.

    With several processes, all of them draw each image together, and the first one writes.

    Args:
      config: of the run.
      workdir: of the run; its newest checkpoint is taken.
      wanted: what is measured, on what.
      out: folder of features and reports.
      cache: folder of the features of real images, by default `out`.
      per_device_batch: images whose features a device computes at once.
      images_per_file: that features are written after, at the least.
      progress: called with what is read, how many images are there now, and how many there will be.

    Raises:
      UserError: a mistake in what is wanted, or folders that hold something else.
    """
    sizes = {"--per_device_batch": per_device_batch, "images_per_file": images_per_file}
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{name}={value}: legal is 1 or more.")
    out = Path(out).expanduser()
    cache = out if cache is None else Path(cache).expanduser()
    task, metrics = check_wanted(config, wanted)
    work = _open(config, workdir, wanted, task, metrics, per_device_batch)
    pins = work.pins()
    with workdir_lock(out, f"--out={out}", "evaluating"):
        report = Report(out / work.folder / f"report-{digest(pins)}.json", pins)
        missing = [name for name, settings in metrics.items() if not report.has(name, settings)]
        check_same("what is to be computed", ", ".join(missing), "a shared file system")
        if missing:
            logs = work.fill(missing, out, cache, images_per_file, progress)
            features = work.features(logs)
            for name in missing:
                scores = METRICS[name].compute(name, features, metrics[name])
                report.add(scores, metrics[name], code_version())
            if "bound" in missing and is_first() and features.bound is not None:
                write_profile(report.path.with_name(f"bound-{digest(pins)}.npz"), features.bound())
            if is_first():
                report.write(work.made_by(logs))
        gather("the report", "")
    return report.path, report.chosen(metrics)


def _open(
    config: ConfigDict,
    workdir: str | Path,
    wanted: Wanted,
    task: FirstStageTask | LatentDiffusionTask,
    metrics: Chosen,
    per_device_batch: int,
) -> Work:
    """Opens all that is read; nothing is drawn. What is quick to find wrong is looked at first."""
    mesh = make_mesh()
    batch_size = per_device_batch * batch_shards(mesh)
    reference = open_reference(config, wanted.reference, wanted.split)
    paired = isinstance(task, FirstStageTask)
    counts = choose_counts(wanted, metrics, len(reference), paired=paired)
    readers, captions = _readers(config, wanted, metrics, reference, batch_size, mesh)
    conditions = None
    if isinstance(task, LatentDiffusionTask):
        conditions = _conditions(config, wanted, reference, task.inputs)
        samples = open_samples(config, workdir, conditions, wanted.seed, mesh, ema=wanted.ema)
    else:
        samples = open_reconstructions(
            config, workdir, reference, per_device_batch, mesh, ema=wanted.ema
        )
    bound = None
    if "bound" in metrics and samples.bound is not None:
        bound = samples.bound(reference, per_device_batch)
    sides = (samples, counts[0], reference, counts[1], conditions)
    return Work(*sides, readers, captions, mesh, bound)


def _readers(
    config: ConfigDict,
    wanted: Wanted,
    metrics: Chosen,
    reference: ReferenceSet,
    batch_size: int,
    mesh: Mesh,
) -> tuple[dict[str, Reader], Reader | None]:
    """Returns what metrics need to be read of images, by name, and of captions."""
    size, channels = (reference.preprocessing[name] for name in ("image_size", "channels"))
    shape = (size, size, channels)
    readers: dict[str, Reader] = {}
    captions = None
    if any(METRICS[name].output for name in metrics):
        extractor = make_extractor(wanted.extractor)
        readers["extractor"] = extractor_reader(extractor, shape, batch_size, mesh)
        check_outputs(metrics, wanted.extractor, readers["extractor"].shapes)
    if wanted.clip is not None:
        clip = make_extractor(f"clip:{wanted.clip}")
        readers["clip"] = extractor_reader(clip, shape, batch_size, mesh)
        captions = caption_reader(wanted.clip, clip, batch_size, mesh)
    weights = config.train.get("lpips_weights")  # runs of older versions have no such field
    for metric in (name for name in PAIRED if name in metrics):
        readers[metric] = pair_reader(metric, reference, batch_size, mesh, weights)
    return readers, captions


def _conditions(
    config: ConfigDict, wanted: Wanted, reference: ReferenceSet, inputs: tuple[str, ...]
) -> ReferenceSet | None:
    """Returns the set whose captions, classes or maps the samples have.

    Raises:
      UserError: its classes are not those that the model knows.
    """
    if not inputs:
        return None
    found, flag = reference, "--reference"
    if wanted.conditions is not None:
        flag = "--conditions"
        found = open_reference(config, wanted.conditions, flag=flag)
    if "class" in inputs and found.key["part"] == "folder":
        known = open_reference(config, TRAIN).class_names
        if found.class_names != known:
            raise UserError(
                f"{flag}={found.name}: its classes are not those of the training data, which "
                f"this model reads. Legal: the same names of classes, or --conditions={TRAIN}."
            )
    return found
