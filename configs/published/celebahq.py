"""LDM-4 on CelebA-HQ 256×256, unconditional: celebahq-ldm-vq-4.

Paper: Tables 1, 12 and 18.
Command: ldm-jax train --config configs/published/celebahq.py --workdir runs/celebahq \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: FID 5.11, precision 0.72, recall 0.49; 500 DDIM steps, 50k samples against the training
  set. The reference's README has the same FID for 200 steps, Figure 28 has 5.15 for 500.
Time: 14.4 V100-days; sampling 0.43 images/s on an A100. Not retrained here.
"""

import vq_f4
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,
        {
            "channels": 224,
            "channel_mult": (1, 2, 3, 4),
            "attention_factors": (2, 4, 8),
            "num_head_channels": 32,
        },
    )
    config.train.update(steps=410_000, batch_size=48, learning_rate=2e-6, scale_learning_rate=True)
    config.sample.update(steps=500, spacing="reference")
    return config
