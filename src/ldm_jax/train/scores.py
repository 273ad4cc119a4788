"""From features of samples and of real images to scores, by the names that `--metrics` takes."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ldm_jax.evaluation import inception_score, kid
from ldm_jax.evaluation.clip_score import clip_scores
from ldm_jax.evaluation.fid import FeatureStatistics, fid
from ldm_jax.evaluation.inception_score import InceptionScore
from ldm_jax.evaluation.metric_names import metric_name
from ldm_jax.evaluation.precision_recall import density_coverage, precision_recall
from ldm_jax.train.likelihood import Likelihood

_ROWS = 4096  # features that statistics take at once


class Score(NamedTuple):
    """One number of a report.

    Attributes:
      metric: of `METRICS`, which asked for it.
      name: as a report shows it.
      value: the number.
      std: its deviation over subsets or splits, where there are any.
    """

    metric: str
    name: str
    value: float
    std: float | None = None


@dataclasses.dataclass(frozen=True)
class Features:
    """What scores are computed from.

    Attributes:
      samples: rows of an output of the extractor, of the samples.
      reference: likewise, of the real images.
      captions: embeddings by CLIP of the samples, and of their captions.
      pairs: a number per reconstruction, by the metric.
      extractor: name of the extractor; '' if none is needed.
      clip: name of the CLIP, or ''.
      mesh: of the devices.
      bound: what the terms of the variational bound say, of diffusion models.
    """

    samples: Callable[[str], np.ndarray]
    reference: Callable[[str], np.ndarray]
    captions: Callable[[], tuple[np.ndarray, np.ndarray]]
    pairs: Callable[[str], np.ndarray]
    extractor: str
    clip: str
    mesh: Mesh
    bound: Callable[[], Likelihood] | None = None


class Metric(NamedTuple):
    """What `--metrics` may name.

    Attributes:
      of_first_stage: it compares reconstructions; the others look at samples.
      output: of the extractor, or None if it needs none.
      uses_reference: it needs the extractor's features of real images.
      settings: that are not its definition's, as a report shows them.
      compute: (metric, features, settings) -> scores.
      looks_at_samples: it needs samples, or reconstructions; others look at real images alone.
    """

    of_first_stage: bool
    output: str | None
    uses_reference: bool
    settings: dict[str, Any]
    compute: Callable[[str, Features, dict[str, Any]], list[Score]]
    looks_at_samples: bool = True


def _frechet(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    del settings
    output = "spatial" if metric == "sfid" else "features"
    found = fid(_statistics(features.reference(output)), _statistics(features.samples(output)))
    return [Score(metric, metric_name(metric, features.extractor), found)]


def _statistics(rows: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(rows.shape[1])
    for start in range(0, len(rows), _ROWS):
        statistics.update(rows[start : start + _ROWS])
    return statistics


def _kernel(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    real, drawn = features.reference("features"), features.samples("features")
    found = kid.kid(real, drawn, **settings)
    return [Score(metric, metric_name(metric, features.extractor), found.mean, found.std)]


def _inception_score(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    logits = features.samples("logits")
    gathered = InceptionScore(len(logits), logits.shape[1], **settings)
    for start in range(0, len(logits), _ROWS):
        part = logits[start : start + _ROWS]
        gathered.update(np.arange(start, start + len(part)), part)
    found = gathered.score()
    return [Score(metric, metric_name(metric, features.extractor), found.mean, found.std)]


def _balls(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    """Returns both numbers of precision and recall, or of density and coverage."""
    measure = {"pr": precision_recall, "dc": density_coverage}[metric]
    real, drawn = features.reference("features"), features.samples("features")
    found: Any = measure(real, drawn, mesh=features.mesh, **settings)
    return [
        Score(metric, metric_name(name, features.extractor), value)
        for name, value in found._asdict().items()
    ]


def _clip(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    del settings
    value = float(clip_scores(*features.captions()).mean())
    return [Score(metric, metric_name("clip_score", features.clip), value)]


def _mean(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    del settings
    value = float(features.pairs(metric).mean(dtype=np.float64))
    return [Score(metric, metric_name(metric), value)]


def _bound(metric: str, features: Features, settings: dict[str, Any]) -> list[Score]:
    """Returns the bound, and of latents with a Gaussian posterior the rate that it implies."""
    del settings
    assert features.bound is not None
    found = features.bound()
    scores = [Score(metric, metric_name(f"bound_{found.of}"), float(found.bits.mean()))]
    if found.encoding_bits is not None:
        rate = float(found.encoding_bits.mean())
        scores.append(Score(metric, metric_name("latent_rate"), rate))
    return scores


_KID = {"subsets": kid.SUBSETS, "size": kid.SUBSET_SIZE, "seed": kid.SEED}
_SPLITS = {"splits": inception_score.SPLITS, "seed": inception_score.SEED}

METRICS = {
    "fid": Metric(False, "features", True, {}, _frechet),
    "sfid": Metric(False, "spatial", True, {}, _frechet),
    "kid": Metric(False, "features", True, _KID, _kernel),
    "is": Metric(False, "logits", False, _SPLITS, _inception_score),
    "pr": Metric(False, "features", True, {"k": 3}, _balls),
    "dc": Metric(False, "features", True, {"k": 5}, _balls),
    "clip": Metric(False, None, False, {}, _clip),
    "bound": Metric(False, None, False, {}, _bound, looks_at_samples=False),
    "rfid": Metric(True, "features", True, {}, _frechet),
    "psnr": Metric(True, None, False, {}, _mean),
    "ssim": Metric(True, None, False, {}, _mean),
    "lpips": Metric(True, None, False, {}, _mean),
}


def least_images(metric: str, settings: dict[str, Any]) -> int:
    """Returns how many images a metric needs of each set that it looks at."""
    if METRICS[metric].compute is _frechet:
        return 2
    return int(settings.get("size") or settings.get("splits") or settings.get("k", 0) + 1)
