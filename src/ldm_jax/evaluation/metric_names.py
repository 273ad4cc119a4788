"""What a metric is called in reports: the field's name only where it is the field's number."""

from typing import NamedTuple

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.evaluation.inception_features import NAME


class MetricName(NamedTuple):
    """What a metric is called.

    Attributes:
      usual: with Inception's features from the published weights, or by its definition where it
        uses no features; None where the name always tells whose features they are.
      other: with other features, without the name of their extractor; None where it uses none.
    """

    usual: str | None
    other: str | None


NAMES = {
    "fid": MetricName("FID", "Fréchet distance"),
    "sfid": MetricName("sFID", "spatial Fréchet distance"),
    "rfid": MetricName("rFID", "Fréchet distance of reconstructions"),
    "kid": MetricName("KID", "kernel distance"),
    "is": MetricName("Inception Score", "classifier score"),
    "precision": MetricName("precision", "precision"),
    "recall": MetricName("recall", "recall"),
    "density": MetricName("density", "density"),
    "coverage": MetricName("coverage", "coverage"),
    "clip_score": MetricName(None, "CLIP score"),
    "bound_pixels": MetricName("variational bound of pixels, bits per dimension", None),
    "bound_latents": MetricName("variational bound of latents' density, bits per dimension", None),
    "latent_rate": MetricName("rate of latents, bits per dimension", None),
    "psnr": MetricName("PSNR", None),
    "ssim": MetricName("SSIM", None),
    "lpips": MetricName("LPIPS", None),
}


def metric_name(metric: str, extractor: str | None = None) -> str:
    """Returns the name that a report shows, such as 'FID' or 'Fréchet distance (emoji classifier)'.

    Args:
      metric: of `NAMES`.
      extractor: the name of its `Extractor`; None for metrics without one.

    Raises:
      UserError: an unknown metric, or an extractor too many or too few.
    """
    name = NAMES[check_in("metric", metric, NAMES)]
    if name.other is None:
        if extractor is not None:
            raise UserError(f"metric {metric}: got extractor {extractor!r}. Legal: none.")
        return str(name.usual)
    if not extractor:
        raise UserError(f"metric {metric}: got no extractor. Legal: the name of one.")
    if extractor == NAME and name.usual is not None:
        return name.usual
    return f"{name.other} ({extractor})"
