"""LDM-4 from label maps to landscapes at 256×256: semantic_synthesis256.

Paper: section 4.3.2, Table 15. The data need label maps, `segmentation`, in 0 .. 181.
Command: ldm-jax train --config configs/published/semantic_256.py --workdir runs/semantic_256 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: pictures, no numbers. Not retrained here.
"""

import vq_f4
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,  # Table 15 has f = 8; the text and the YAML have f = 4
        {
            "channels": 128,
            "channel_mult": (1, 4, 8),
            "attention_factors": (8, 16, 32),  # no level has them: attention is in the middle
            "num_heads": 8,  # Table 15 has one
        },
        {"name": "spatial_rescaler", "num_classes": 182, "image_size": 256},
        betas=(0.0015, 0.0205),
        loss_name="l1",
    )
    config.train.update(steps=360_000, batch_size=48, learning_rate=1e-6, scale_learning_rate=True)
    return config
