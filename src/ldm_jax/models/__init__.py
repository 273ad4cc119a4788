"""Networks, by the name that configurations use."""

from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.discriminator import PatchDiscriminator
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.models.latent_classifier import LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.models.vq_autoencoder import VQAutoencoder

NETWORKS = {"unet": UNet}
CLASSIFIERS = {"unet_encoder": LatentClassifier}
DISCRIMINATORS = {"patch": PatchDiscriminator}
FIRST_STAGES = {
    "autoencoder_kl": Autoencoder,
    "autoencoder_vq": VQAutoencoder,
    "identity": IdentityFirstStage,
}

__all__ = [
    "CLASSIFIERS",
    "DISCRIMINATORS",
    "FIRST_STAGES",
    "NETWORKS",
    "Autoencoder",
    "IdentityFirstStage",
    "LatentClassifier",
    "PatchDiscriminator",
    "UNet",
    "VQAutoencoder",
]
