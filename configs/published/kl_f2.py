"""KL first stage, f = 2, 128×128×2 latents: the kl-f2 of Table 8, which was never released.

Paper: Table 8, appendix G; OpenImages. The table gives the latent; the widths are assumed to be
those of the other models, and batch and steps to be those of kl-f4.
Command: ldm-jax train --config configs/published/kl_f2.py --workdir runs/kl_f2 \
  --config.data.source.path=DIR
Published: R-FID 0.086, PSNR 32.47, SSIM 0.93 (trained on OpenImages, measured on ImageNet-Val
  256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 2),
        z_channels=2,
        embed_dim=2,
        steps=176_991,
        batch_size=10,
    )
