"""Text-to-image latent diffusion on the built-in shapes at 32×32: `make quickstart`.

Paper: section 3.3; a transformer trained jointly reads the caption, cross-attention feeds it in.
Command: ldm-jax train --config configs/shapes_text.py --workdir runs/shapes_text \
  --config.task.first_stage.workdir=runs/shapes_autoencoder
Result: 0.984, 0.977, 1.000 of 256 captions right (seeds 0, 1, 2); two CPU cores, 7.5 minutes.
"""

import shapes_autoencoder
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config


def get_config():
    """Returns the configuration."""
    first_stage = shapes_autoencoder.get_config()
    config = base_config()
    config.task = {
        "name": "latent_diffusion",
        "model": {
            "name": "unet",
            "out_channels": 4,
            "channels": 48,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_factors": (2,),
            "num_head_channels": 24,
            "transformer_depth": 1,
            "scale_shift_norm": True,
            "num_groups": 16,
        },
        "conditioner": {
            "name": "text_transformer",
            "vocab_size": 24,  # the words of shapes, padding and unknown
            "length": 12,
            "dim": 64,
            "depth": 2,
            "num_heads": 2,
            "head_dim": 32,
            "embedding_std": 1.0,
            "pooled_dim": 192,  # 4 × the channels of the U-Net
        },
        "first_stage": {
            "model": first_stage.task.model.to_dict(),
            "workdir": placeholder(str),
            "scale_factor": "auto",
            "scale_images": 2048,
        },
        "schedule": {"name": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0195},
        # v weighs the noisy timesteps, where the caption decides, more than eps does.
        "parameterization": "v",
        "condition_drop_rate": 0.1,
    }
    config.data = {
        "source": {"name": "shapes", "image_size": 32, "max_objects": 1, "num_examples": 50_000},
        "image_size": 32,
        "tokenizer": {"name": "words", "vocabulary": "shapes", "length": 12},
    }
    config.train.update(
        steps=2500,
        batch_size=32,
        learning_rate=2e-3,
        schedule={"name": "cosine"},
        warmup_steps=50,
        b2=0.99,
        clip_norm=1.0,
        ema_decay=0.995,
        log_every=20,
        checkpoint_every=500,
        sample_every=1250,
    )
    config.sample.update(steps=25, guidance_scale=1.5, per_device_batch=32)
    return config
