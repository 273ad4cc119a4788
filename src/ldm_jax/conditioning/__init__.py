"""Conditioners, by the name that configurations use."""

from ldm_jax.conditioning.base import Conditioner, Conditioning, drop
from ldm_jax.conditioning.class_label import ClassLabel
from ldm_jax.conditioning.none import NoConditioning
from ldm_jax.conditioning.text_transformer import TextTransformer

CONDITIONERS = {
    "none": NoConditioning,
    "class_label": ClassLabel,
    "text_transformer": TextTransformer,
}

__all__ = [
    "CONDITIONERS",
    "ClassLabel",
    "Conditioner",
    "Conditioning",
    "NoConditioning",
    "TextTransformer",
    "drop",
]
