"""Retrieval-augmented LDM-16 at 768×768: rdm.

Blattmann et al. 2022 (arXiv 2204.11824); reference: configs/retrieval-augmented-diffusion. It reads
`clip_embeddings`, float32 [11, 768]: of the caption and of 10 neighbours, each of length 1. They
come from FILE.npy, the embeddings of captions by CLIP (ViT-L/14), a row an image, and the
neighbours from DB.npy, of a database of images; without it they are other captions. Where the
database is of the same images, add --config.data.derive.clip_embeddings.paired=True, so that none
is its own neighbour.
Command: ldm-jax train --config configs/published/rdm_768.py --workdir runs/rdm_768 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/kl_f16 \
  --config.data.derive.clip_embeddings.embeddings=FILE.npy \
  --config.data.derive.clip_embeddings.database=DB.npy
Published: pictures; the script takes 50 DDIM steps, eta 0, guidance 5. Not retrained here.
"""

import kl_f16
from ml_collections.config_dict import placeholder
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        kl_f16.get_config().task.model,
        {
            "channels": 448,
            "channel_mult": (1, 2, 3, 4),
            "attention_factors": (1, 2, 4),
            "num_head_channels": 32,
            "transformer_depth": 1,
            "remat": "blocks",
        },
        {"name": "identity", "key": "clip_embeddings", "route": "context", "shape": (11, 768)},
        betas=(0.0015, 0.015),
        scale_factor=0.22765929,
        image_size=768,
        condition_drop_rate=0.1,  # not published; the null condition is zeros
    )
    config.data.derive = {
        "clip_embeddings": {
            "name": "neighbours",
            "embeddings": placeholder(str),
            "database": placeholder(str),
            "k": 10,
            "own": True,
            "paired": False,
            "search": "exact",  # the reference's ScaNN is approximate, as 'faiss' is here
        }
    }
    config.train.update(learning_rate=1e-4)  # batch and steps are not published
    config.sample.update(steps=50, spacing="reference", guidance_scale=5.0)
    return config
