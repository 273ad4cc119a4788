"""LDM-4 from label maps to landscapes at 512×512: semantic_synthesis512.

Reference: models/ldm/semantic_synthesis512; the networks are those of semantic_256. The data need
label maps, `segmentation`, in 0 .. 181.
Command: ldm-jax train --config configs/published/semantic_512.py --workdir runs/semantic_512 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
The workdir is of a first stage at 256×256: it is convolutional.
Published: pictures, no numbers. Not retrained here.
"""

import semantic_256


def get_config():
    """Returns the configuration."""
    config = semantic_256.get_config()
    config.data.image_size = 512
    config.task.conditioner.image_size = 512
    config.train.update(steps=100_000, batch_size=8)  # the steps are not published
    return config
