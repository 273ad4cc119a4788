"""Denoising of images larger than the network was trained on, in overlapping windows."""

import dataclasses

from ldm_jax.core.types import Array, Conditioning
from ldm_jax.core.windows import over_windows
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.samplers.guidance import Denoise


def windowed(denoise: Denoise, window: tuple[int, int], overlap: tuple[int, int]) -> Denoise:
    """Returns `denoise` that asks the network for one window at a time, and blends the answers.

    MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): at each step every window is denoised at
    the size of training, and what overlaps is averaged, so that the windows agree step by step.
    Maps of the conditioning are cut as the latent is; tokens and embeddings hold for all windows.

    Args:
      denoise: (z, t, conditioning) -> Prediction.
      window: height and width in latent pixels.
      overlap: of neighbours, likewise.
    """

    def blended(z: Array, t: Array, conditioning: Conditioning | None) -> Prediction:
        concat = None if conditioning is None else conditioning.concat

        def at(part: tuple[Array, Array | None]) -> Prediction:
            z, concat = part
            local = (
                None if conditioning is None else dataclasses.replace(conditioning, concat=concat)
            )
            return denoise(z, t, local)

        return over_windows(at, (z, concat), window, overlap)

    return blended
