"""Latent diffusion models in JAX and Flax.

Importing this package imports neither TensorFlow nor PyTorch and initialises no backend.
"""

__version__ = "0.1.0"
