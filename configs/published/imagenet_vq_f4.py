"""LDM-4 on ImageNet 256×256, class-conditional with a null class for guidance: cin256-v2.

Paper: Tables 3, 10, 15 and 18.
Command: ldm-jax train --config configs/published/imagenet_vq_f4.py --workdir runs/imagenet_vq_f4 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: FID 3.60, IS 247.67, precision 0.87, recall 0.48 with guidance 1.5; 3.95, 178.22, 0.81,
  0.55 with 1.25; 10.56, 103.49, 0.71, 0.62 without; 250 DDIM steps, 50k samples.
Time: 271 V100-days; sampling 0.4 images/s guided, 0.7 not, on an A100. Not retrained here.
"""

import vq_f4
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,
        # 400.9M as in Tables 3, 10 and 18; Table 15 prints 395M.
        {
            "channels": 192,
            "channel_mult": (1, 2, 3, 5),
            "attention_factors": (2, 4, 8),
            "num_heads": 1,
            "transformer_depth": 1,
        },
        {"name": "class_label", "num_classes": 1000, "dim": 512},
        condition_drop_rate=0.1,  # not published
    )
    config.data.random_crop = True
    config.train.update(steps=178_000, batch_size=1200, learning_rate=1e-4)
    config.sample.update(steps=250, spacing="reference", guidance_scale=1.5)
    return config
