"""KL autoencoder, f = 4, for a folder of 64×64 RGBA emoji composited on white.

Paper: section 3.1 and appendix G, without the perceptual and adversarial terms.
Command: ldm-jax train --config configs/emoji_autoencoder.py --workdir runs/emoji_autoencoder \
  --config.data.source.path=DIR
"""

from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config


def get_config():
    """Returns the configuration."""
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
    return config
