"""Conditioners, by the name that configurations use."""

from ldm_jax.conditioning.base import Conditioner, Conditioning, drop
from ldm_jax.conditioning.bert_text import BertText
from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.clip_image import ClipImage
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.conditioning.identity import Identity
from ldm_jax.conditioning.none import NoConditioning
from ldm_jax.conditioning.spatial_rescaler import SpatialRescaler
from ldm_jax.conditioning.text_transformer import TextTransformer
from ldm_jax.core.plugins import registry_of

CONDITIONERS = registry_of(Conditioner)
CONDITIONERS |= {
    "none": NoConditioning,
    "class_label": ClassLabel,
    "text_transformer": TextTransformer,
    "clip_text": ClipText,
    "bert_text": BertText,
    "clip_image": ClipImage,
    "spatial_rescaler": SpatialRescaler,
    "identity": Identity,
}

__all__ = [
    "CONDITIONERS",
    "BertText",
    "ClassLabel",
    "ClipImage",
    "ClipText",
    "Conditioner",
    "Conditioning",
    "Identity",
    "NoConditioning",
    "SpatialRescaler",
    "TextTransformer",
    "drop",
]
