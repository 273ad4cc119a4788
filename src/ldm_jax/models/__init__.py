"""Networks, by the name that configurations use."""

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.unet import UNet

NETWORKS = {"unet": UNet}
FIRST_STAGES = {"autoencoder_kl": Autoencoder}

__all__ = ["FIRST_STAGES", "NETWORKS", "Autoencoder", "UNet"]
