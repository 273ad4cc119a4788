"""LDM-8 from layouts to images on COCO at 256×256.

Paper: Tables 9, 15 and 17; no YAML was published. The data need boxes as for OpenImages.
Command: ldm-jax train --config configs/published/layout2img_coco.py \
  --workdir runs/layout2img_coco --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/vq_f8
Published: FID 42.06 on 2048 images; 100 DDIM steps. Not retrained here.
"""

import layout2img_openimages
import vq_f8
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f8.get_config().task.model,
        # Not reproduced: Table 15 prints 345M, which these hyperparameters of its do not give,
        # neither alone (312,241,540) nor with the transformer (371,100,036).
        {
            "channels": 192,
            "channel_mult": (1, 2, 4),
            "attention_factors": (1, 2, 4),
            "num_heads": 1,
            "transformer_depth": 2,
            "dropout": 0.1,
        },
        layout2img_openimages.get_config().task.conditioner,
        betas=(0.0015, 0.0205),  # these and the loss as for OpenImages: not published
        loss_name="l1",
    )
    config.data.derive = layout2img_openimages.get_config().data.derive
    config.train.update(steps=170_000, batch_size=48, learning_rate=4.8e-5)
    config.sample.update(steps=100, spacing="reference")
    return config
