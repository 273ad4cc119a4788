"""Networks, by the name that configurations use."""

import flax.linen as nn

from ldm_jax.core.plugins import registry_of
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.discriminator import PatchDiscriminator
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.models.latent_classifier import LatentClassifier
from ldm_jax.models.unet import UNet
from ldm_jax.models.vq_autoencoder import VQAutoencoder

NETWORKS = registry_of(nn.Module)
NETWORKS |= {"unet": UNet}
CLASSIFIERS = registry_of(nn.Module)
CLASSIFIERS |= {"unet_encoder": LatentClassifier}
DISCRIMINATORS = registry_of(nn.Module)
DISCRIMINATORS |= {"patch": PatchDiscriminator}
FIRST_STAGES = registry_of(nn.Module)
FIRST_STAGES |= {
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
