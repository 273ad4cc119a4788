"""LDM-4 from layouts to images on OpenImages at 256×256: layout2img-openimages256.

Paper: section 4.3.1, Tables 9, 15 and 17. The data need boxes; `layout`, int32 [92], is made of
them: 30 objects of class, top left and bottom right, then the crop; 8191 pads.
Command: ldm-jax train --config configs/published/layout2img_openimages.py \
  --workdir runs/layout2img_openimages --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/vq_f4
Published: FID 32.02, IS 15.92 on 2048 images; 200 DDIM steps, eta 0. Not retrained here.
"""

import vq_f4
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,
        {
            "channels": 128,
            "channel_mult": (1, 2, 3, 4),
            "attention_factors": (2, 4, 8),
            "num_head_channels": 32,  # Table 15 has one head
            "transformer_depth": 3,
        },
        {
            "name": "text_transformer",
            "key": "layout",
            "vocab_size": 8192,
            "length": 92,
            "dim": 512,
            "depth": 16,
            "unused_logits": True,
        },
        betas=(0.0015, 0.0205),
        loss_name="l1",
    )
    config.data.derive = {"layout": {"num_objects": 30, "vocab_size": 8192}}
    config.train.update(
        steps=4_400_000, batch_size=24, learning_rate=2e-6, scale_learning_rate=True
    )
    config.sample.update(steps=200, spacing="reference")
    return config
