"""LDM-{1,2,4,8,16,32} on ImageNet 256×256, class-conditional: how much to compress.

Paper: section 4.1, Table 13, Figures 6, 7 and 17. The argument is f, 4 if none is given.
Command: ldm-jax train --config configs/published/compression_imagenet.py \
  --workdir runs/imagenet_4 --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/vq_f4
and so on with `--config configs/published/compression_imagenet.py:8`. f = 1 has no first stage.
Published: curves of FID and IS over 2M steps, 100 DDIM steps, eta 0, 5k samples; after 2M steps
  LDM-8 is 38 FID ahead of LDM-1. One A100 each. Not retrained here.
"""

import vq_f2
import vq_f4
import vq_f8
import vq_f16
from published_base import first_stage_config, latent_diffusion_config


def _unpublished(num_codes, channels, **fields):
    """Returns a first stage of which Table 13 gives the latent alone; the widths are assumed."""
    dims = {"z_channels": channels, "embed_dim": channels, "num_codes": num_codes}
    config = first_stage_config("autoencoder_vq", steps=1, batch_size=1, **dims, **fields)
    return config.task.model


FIRST_STAGES = {
    "1": {"name": "identity"},
    "2": vq_f2.get_config().task.model,
    "4": vq_f4.get_config().task.model,
    "8": vq_f8.get_config().task.model,
    "16": vq_f16.get_config().task.model,
    # Table 13 prints the latent as 88×8×32; Table 8's vq-f32 has 16 channels.
    "32": _unpublished(16384, 32, channel_mult=(1, 1, 2, 2, 4, 4), attention_factors=(16, 32)),
}
# Channels, their multipliers, attention factors; batch, learning rate. LDM-4 has 400.9M parameters
# where the table prints 391M.
ROWS = {
    "1": (192, (1, 1, 2, 2, 4, 4), (8, 16, 32), 7, 4.9e-5),
    "2": (192, (1, 2, 2, 4, 4), (4, 8, 16), 9, 6.3e-5),
    "4": (192, (1, 2, 3, 5), (2, 4, 8), 40, 8e-5),
    "8": (256, (1, 2, 4), (1, 2, 4), 64, 6.4e-5),
    "16": (256, (1, 2, 4), (1, 2, 4), 112, 4.5e-5),
    "32": (256, (1, 2, 4), (1, 2, 4), 112, 4.5e-5),
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
            "num_heads": 1,
            "transformer_depth": 1,
        },
        {"name": "class_label", "num_classes": 1000, "dim": 512, "null_class": False},
    )
    config.data.random_crop = True
    config.train.update(steps=2_000_000, batch_size=batch_size, learning_rate=learning_rate)
    config.sample.update(steps=100, spacing="reference")
    return config
