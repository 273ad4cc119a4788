"""The Python door: a model in, images out."""

from ldm_jax.pipeline.canvas import extend_canvas
from ldm_jax.pipeline.generation import Generation
from ldm_jax.pipeline.guides import ClassifierGuide, ImageGuide
from ldm_jax.pipeline.pipeline import Pipeline
from ldm_jax.pipeline.regions import Region

__all__ = ["ClassifierGuide", "Generation", "ImageGuide", "Pipeline", "Region", "extend_canvas"]
