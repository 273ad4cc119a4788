"""Extractors of features, by the name that commands use."""

from ldm_jax.core.plugins import Registry
from ldm_jax.evaluation.classifier_features import classifier
from ldm_jax.evaluation.clip_features import clip
from ldm_jax.evaluation.inception_features import inception
from ldm_jax.evaluation.pixel_features import pixels

EXTRACTORS = Registry(callable, "a function that returns an ldm_jax.evaluation.features.Extractor")
EXTRACTORS |= {
    "inception": inception,
    "classifier": classifier,
    "clip": clip,
    "pixels": pixels,
}
