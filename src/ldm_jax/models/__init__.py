"""Networks, by the name that configurations use."""

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet

MODELS = {"unet": UNet, "autoencoder_kl": Autoencoder}

__all__ = ["MODELS", "Autoencoder", "UNet"]
