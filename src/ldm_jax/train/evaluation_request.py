"""What an evaluation is asked for, and whether it can be had."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble
from ldm_jax.train.preflight import check_sampling
from ldm_jax.train.reference_set import TRAIN
from ldm_jax.train.scores import METRICS, least_images

Chosen = Mapping[str, dict[str, Any]]  # metrics by name, with their settings
_DEFAULT = {True: ("psnr", "ssim"), False: ("fid",)}  # of first stages, and of samplers
_NUM_SAMPLES = 50_000


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is measured, on what.

    Attributes:
      metrics: of `scores.METRICS`; None for the usual ones of such a model.
      num_samples: None: 50,000 samples, or all images that a first stage can reconstruct.
      num_reference: how many real images; None for all.
      seed: of the noise.
      extractor: 'inception', 'pixels', 'classifier:FILE', …; see `feature_readers.make_extractor`.
      clip: folder of the CLIP of the CLIP score.
      reference: 'train', 'held_out', or a folder of images.
      split: of the data set, in place of the configuration's.
      conditions: as `reference`: what conditions the samples; None for the reference itself.
      ema: averaged parameters, or the raw ones.
      kid_size: images of a subset of the kernel distance; None for the usual number.
    """

    metrics: tuple[str, ...] | None = None
    num_samples: int | None = None
    num_reference: int | None = None
    seed: int = 0
    extractor: str = "inception"
    clip: str | None = None
    reference: str = TRAIN
    split: str | None = None
    conditions: str | None = None
    ema: bool = True
    kid_size: int | None = None


def check_wanted(
    config: ConfigDict, wanted: Wanted
) -> tuple[FirstStageTask | LatentDiffusionTask, Chosen]:
    """Returns the task of a run, and the metrics with their settings, as far as shows without data.

    Raises:
      UserError: the run cannot be evaluated like that.
    """
    check_sampling(config, None)
    task = assemble.build_task(config)
    if not isinstance(task, FirstStageTask | LatentDiffusionTask):
        raise UserError(
            f"config.task.name={config.task.name}: draws no images. Legal: the --workdir of a "
            "latent_diffusion model, or of a first stage."
        )
    for flag, value in (
        ("num_samples", wanted.num_samples),
        ("num_reference", wanted.num_reference),
    ):
        if value is not None and value < 1:
            raise UserError(f"--{flag}={value}: legal is 1 or more.")
    metrics = _choose(wanted, isinstance(task, FirstStageTask))
    reads = task.inputs if isinstance(task, LatentDiffusionTask) else ()
    if wanted.conditions is not None and not reads:
        raise UserError(
            f"--conditions={wanted.conditions}: this model reads none. Legal: without this flag."
        )
    if "clip" in metrics and "tokens" not in reads:
        raise UserError("--metrics=clip: this model reads no text. Legal: metrics without clip.")
    if ("clip" in metrics) != bool(wanted.clip):
        raise UserError(
            f"--clip={wanted.clip or ''}: the metric clip needs a folder of transformers with a "
            "whole CLIPModel, and no other metric does. Legal: both or neither."
        )
    return task, metrics


def _choose(wanted: Wanted, is_first_stage: bool) -> Chosen:
    names = _DEFAULT[is_first_stage] if wanted.metrics is None else wanted.metrics
    legal = [name for name, x in METRICS.items() if x.of_first_stage == is_first_stage]
    if not names:
        raise UserError(f"--metrics: got none. Legal: {', '.join(legal)}.")
    for name in names:
        check_in("--metrics", name, METRICS)
        if name not in legal:
            what = "a first stage" if is_first_stage else "a diffusion model"
            raise UserError(f"--metrics={name}: this is {what}. Legal: {', '.join(legal)}.")
    found = {name: dict(METRICS[name].settings) for name in names}
    if wanted.kid_size is not None:
        if "kid" not in found or wanted.kid_size < 2:
            raise UserError(f"--kid_size={wanted.kid_size}: legal is 2 or more, with kid.")
        found["kid"]["size"] = wanted.kid_size
    return found


def check_outputs(metrics: Iterable[str], extractor: str, outputs: Iterable[str]) -> None:
    """Raises UserError for a metric that needs what an extractor does not tell of an image.

    Args:
      metrics: by name.
      extractor: as it was asked for.
      outputs: that it has.
    """
    outputs = tuple(outputs)
    for name in metrics:
        output = METRICS[name].output
        if output is not None and output not in outputs:
            legal = [x for x, metric in METRICS.items() if metric.output in outputs]
            raise UserError(
                f"--metrics={name}: needs {output}, which --extractor={extractor} does not have. "
                f"Legal with it: {', '.join(legal)}."
            )


def choose_counts(
    wanted: Wanted, metrics: Chosen, available: int, *, paired: bool
) -> tuple[int, int]:
    """Returns how many samples and how many real images are compared.

    Args:
      wanted: as it was asked for.
      metrics: with their settings.
      available: real images that there are.
      paired: each sample is the reconstruction of one of them.

    Raises:
      UserError: more than there are, or fewer than a metric needs.
    """
    samples, reference = wanted.num_samples, wanted.num_reference
    if paired and reference is not None:
        raise UserError(
            f"--num_reference={reference}: reconstructions are compared with their own images. "
            "Legal: --num_samples."
        )
    if not any(METRICS[name].looks_at_samples for name in metrics):
        if samples is not None:
            raise UserError(
                f"--num_samples={samples}: the metrics look at real images alone. Legal: "
                "--num_reference."
            )
        samples = 0
    if samples is None:
        samples = available if paired else _NUM_SAMPLES
    if reference is None:
        reference = samples if paired else available
    if reference > available:
        flag = "--num_samples" if paired else "--num_reference"
        raise UserError(f"{flag}={reference}: more than there are. Legal: 1 to {available}.")
    for name, settings in metrics.items():
        least = least_images(name, settings)
        found = min(samples, reference) if METRICS[name].uses_reference else samples
        if METRICS[name].looks_at_samples and found < least:
            also = ", or a smaller --kid_size" if name == "kid" else ""
            raise UserError(f"--metrics={name}: got {found} images. Legal: {least} or more{also}.")
    return samples, reference
