"""LDM-8 on ImageNet 256×256, class-conditional, without a null class: cin-ldm-vq-f8.

Paper: Tables 3, 10 and 18; LDM-8 of Table 13.
Command: ldm-jax train --config configs/published/imagenet_vq_f8.py --workdir runs/imagenet_vq_f8 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f8
Published: FID 15.51, IS 79.03, precision 0.65, recall 0.63; 200 DDIM steps, 50k samples (after
  2.9M steps 17.41, 72.92, 0.65, 0.62). With a classifier's guidance of scale 10: FID 7.76.
Time: 79 V100-days for 2.9M steps; sampling 1.9 images/s on an A100. Not retrained here.
"""

import vq_f8
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f8.get_config().task.model,
        {
            "channels": 256,
            "channel_mult": (1, 2, 4),
            "attention_factors": (1, 2, 4),
            "num_head_channels": 32,  # Table 13 has one head
            "transformer_depth": 1,
        },
        {"name": "class_label", "num_classes": 1000, "dim": 512, "null_class": False},
    )
    config.data.random_crop = True
    config.train.update(
        steps=4_800_000, batch_size=64, learning_rate=1e-6, scale_learning_rate=True
    )
    config.sample.update(steps=200, spacing="reference")
    return config
