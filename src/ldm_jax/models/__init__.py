"""Networks, by the name that configurations use."""

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.discriminator import PatchDiscriminator
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.models.unet import UNet
from ldm_jax.models.vq_autoencoder import VQAutoencoder

NETWORKS = {"unet": UNet}
DISCRIMINATORS = {"patch": PatchDiscriminator}
FIRST_STAGES = {
    "autoencoder_kl": Autoencoder,
    "autoencoder_vq": VQAutoencoder,
    "identity": IdentityFirstStage,
}

__all__ = [
    "DISCRIMINATORS",
    "FIRST_STAGES",
    "NETWORKS",
    "Autoencoder",
    "IdentityFirstStage",
    "PatchDiscriminator",
    "UNet",
    "VQAutoencoder",
]
