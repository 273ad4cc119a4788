"""KL autoencoder for a folder of 64×64 RGBA emoji composited on white: f = 4, or f = 8 if small.

Paper: section 3.1 and appendix G, without the perceptual and adversarial terms. `:small` is what
two CPU cores train in a quarter of an hour.
Command: ldm-jax train --config configs/emoji_autoencoder.py --workdir runs/emoji_autoencoder \
  --config.data.source.path=DIR
"""

from ml_collections.config_dict import placeholder

from ldm_jax.core.checks import check_in
from ldm_jax.core.defaults import base_config


def small(config):
    """A sixteenth of the width, twice the reduction, a tenth of the steps."""
    config.task.model = {
        "name": "autoencoder_kl",
        "channels": 16,
        "channel_mult": (1, 2, 4, 4),
        "num_res_blocks": 1,
        "z_channels": 8,
        "embed_dim": 8,
        "num_groups": 8,
        "mid_attention": False,
    }
    config.task.kl_weight = 1e-3  # latents that small errors of the diffusion model do not spoil
    config.train.update(
        steps=1500,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=50,
        b2=0.99,
        ema_decay=0.99,
        log_every=20,
        checkpoint_every=500,
        sample_every=500,
    )


def get_config(size="full"):
    """Returns the configuration, 'full' or 'small'."""
    check_in("config", size, ("full", "small"))
    config = base_config()
    config.task = {
        "name": "autoencoder",
        "model": {
            "name": "autoencoder_kl",
            "channels": 64,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 2,
            "z_channels": 4,
            "embed_dim": 4,
        },
        "kl_weight": 1e-5,
    }
    config.data = {
        "source": {"name": "folder", "path": placeholder(str)},
        "image_size": 64,
        "background": (255, 255, 255),
    }
    config.train.update(
        steps=10_000,
        batch_size=64,
        learning_rate=5e-4,
        schedule={"name": "cosine"},
        warmup_steps=500,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.999,
        sample_every=2000,
    )
    if size == "small":
        small(config)
    return config
