"""LDM-4 on LSUN-Bedrooms 256×256, unconditional: lsun_bedrooms-ldm-vq-4.

Paper: Tables 1, 12 and 18. The networks are those of celebahq.
Command: ldm-jax train --config configs/published/lsun_bedrooms.py --workdir runs/lsun_bedrooms \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: FID 2.95 (3.0 by ADM's script), precision 0.66, recall 0.48; 200 DDIM steps, eta 1,
  50k samples against the training set.
Time: 60 V100-days (55 in the table's sum); sampling 1.07 images/s on an A100. Not retrained here.
"""

import celebahq


def get_config():
    """Returns the configuration."""
    config = celebahq.get_config()
    config.data.flip_probability = 0.5
    config.train.update(steps=1_900_000)
    config.sample.update(steps=200)
    config.sample.sampler.eta = 1.0
    return config
