"""Class-conditional latent diffusion on Fashion-MNIST: 10 classes and a null class.

Paper: section 4.3, with classifier-free guidance; the class is added to the timestep embedding.
Command: ldm-jax train --config configs/fashion_mnist_class.py --workdir runs/fashion_class \
  --config.data.source.path=TFDS_DIR --config.task.first_stage.workdir=runs/fashion_autoencoder
Result: 0.969 of 1,000 samples show the requested class to a classifier; two CPU cores, 29 minutes
  for everything. Curve and grid: experiments/fashion_mnist/README.md
"""

import fashion_mnist_autoencoder
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config


def get_config():
    """Returns the configuration."""
    first_stage = fashion_mnist_autoencoder.get_config()
    config = base_config()
    config.task = {
        "name": "latent_diffusion",
        "model": {
            "name": "unet",
            "out_channels": 4,
            "channels": 64,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_factors": (2,),
            "num_head_channels": 32,
            "scale_shift_norm": True,
            "num_groups": 16,
        },
        "conditioner": {
            "name": "class_label",
            "num_classes": 10,
            "dim": 256,  # 4 × the channels of the U-Net
            "route": "embedding",
        },
        "first_stage": {
            "model": first_stage.task.model.to_dict(),
            "workdir": placeholder(str),
            "scale_factor": "auto",
            "scale_images": 2048,
        },
        "schedule": {"name": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0195},
        "parameterization": "v",
        "condition_drop_rate": 0.1,
    }
    config.data = first_stage.data.to_dict()
    config.train.update(
        steps=2400,
        batch_size=64,
        learning_rate=2e-3,
        schedule={"name": "cosine"},
        warmup_steps=100,
        b2=0.99,
        clip_norm=1.0,
        ema_decay=0.997,
        checkpoint_every=800,
        sample_every=1200,
    )
    config.sample.update(steps=50, guidance_scale=2.0, grid_images=40, per_device_batch=40)
    return config
