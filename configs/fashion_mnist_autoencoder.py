"""KL autoencoder, f = 4, for Fashion-MNIST at 32×32 grey levels (28×28 enlarged).

Paper: section 3.1 and appendix G, without the perceptual and adversarial terms.
Command: ldm-jax train --config configs/fashion_mnist_autoencoder.py \
  --workdir runs/fashion_autoencoder --config.data.source.path=TFDS_DIR
Hardware and time: two CPU cores, about 4 minutes; see experiments/fashion_mnist/README.md.
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
            "image_channels": 1,
            "channels": 16,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 1,
            "z_channels": 4,
            "embed_dim": 4,
            "num_groups": 8,
        },
        "kl_weight": 1e-3,
    }
    config.data = {
        "source": {
            "name": "tfds",
            "dataset": "fashion_mnist",
            "path": placeholder(str),
            "split": "train",
        },
        "image_size": 32,
        "channels": 1,
    }
    config.train.update(
        steps=1500,
        batch_size=16,
        learning_rate=3e-3,
        schedule={"name": "cosine"},
        warmup_steps=50,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.995,
        checkpoint_every=500,
        sample_every=1500,
    )
    return config
