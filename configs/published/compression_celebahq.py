"""LDM-{1,2,4,8,16,32} on CelebA-HQ 256×256, unconditional: how much to compress.

Paper: section 4.1, Table 14, Figure 7 left. The argument is f, 4 if none is given.
Command: ldm-jax train --config configs/published/compression_celebahq.py \
  --workdir runs/celebahq_4 --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/vq_f4
and so on with `--config configs/published/compression_celebahq.py:8`. f = 1 has no first stage.
Published: FID over throughput for 10 to 200 DDIM steps, 5k samples, best checkpoint of 500k steps.
  One A100 each. Not retrained here.
"""

from compression_imagenet import FIRST_STAGES
from published_base import latent_diffusion_config

# Channels, their multipliers, attention factors; batch, learning rate. LDM-16 has 257.75M
# parameters where the table prints 260M.
ROWS = {
    "1": (192, (1, 1, 2, 2, 4, 4), (8, 16, 32), 9, 9e-5),
    "2": (192, (1, 2, 2, 4, 4), (4, 8, 16), 11, 1.1e-4),
    "4": (224, (1, 2, 3, 4), (2, 4, 8), 48, 9.6e-5),
    "8": (256, (1, 2, 4), (1, 2, 4), 96, 9.6e-5),
    "16": (256, (1, 2, 4), (1, 2, 4), 128, 1.3e-4),
    "32": (256, (1, 2, 4), (1, 2, 4), 128, 1.3e-4),
}


def get_config(factor="4"):
    """Returns the configuration of LDM-`factor`."""
    channels, channel_mult, attention_factors, batch_size, learning_rate = ROWS[factor]
    config = latent_diffusion_config(
        FIRST_STAGES[factor],
        {
            "channels": channels,
            "channel_mult": channel_mult,
            "attention_factors": attention_factors,
            "num_head_channels": 32,
        },
    )
    config.train.update(steps=500_000, batch_size=batch_size, learning_rate=learning_rate)
    config.sample.update(steps=200, spacing="reference")
    return config
