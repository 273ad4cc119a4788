"""The Python door: a model in, images out."""

from ldm_jax.pipeline.canvas import extend_canvas
from ldm_jax.pipeline.generation import Generation
from ldm_jax.pipeline.pipeline import Pipeline

__all__ = ["Generation", "Pipeline", "extend_canvas"]
