"""LDM-4 on FFHQ 256×256, unconditional: ffhq-ldm-vq-4.

Paper: Tables 1, 12 and 18. The networks are those of celebahq.
Command: ldm-jax train --config configs/published/ffhq.py --workdir runs/ffhq \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: FID 4.98, precision 0.73, recall 0.50; 200 DDIM steps, eta 1, 50k samples against the
  training set.
Time: 26 V100-days; sampling 1.07 images/s on an A100. Not retrained here.
"""

import celebahq


def get_config():
    """Returns the configuration."""
    config = celebahq.get_config()
    config.train.update(steps=635_000, batch_size=42)
    config.sample.update(steps=200)
    config.sample.sampler.eta = 1.0
    return config
