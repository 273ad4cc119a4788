"""Latent diffusion models in JAX and Flax.

Importing this package imports neither TensorFlow nor PyTorch and initialises no backend.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_jax.pipeline import (
        ClassifierGuide,
        Generation,
        ImageGuide,
        Pipeline,
        Region,
        extend_canvas,
    )

__version__ = "0.1.0"
__all__ = [
    "ClassifierGuide",
    "Generation",
    "ImageGuide",
    "Pipeline",
    "Region",
    "extend_canvas",
]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: `import ldm_jax` stays as light as it says.
    if name in __all__:
        from ldm_jax import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
