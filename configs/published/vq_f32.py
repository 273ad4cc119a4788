"""VQ first stage, f = 32, 8×8×16 latents, 16384 codes: the vq-f32 of Table 8, never released.

Paper: Table 8, appendix G; OpenImages. The table gives latent and codes; the widths are assumed to
be those of kl-f32, and batch, steps and discriminator to be those of vq-f16.
Command: ldm-jax train --config configs/published/vq_f32.py --workdir runs/vq_f32 \
  --config.data.source.path=DIR
Published: R-FID 31.83, PSNR 17.45, SSIM 0.41 (trained on OpenImages, measured on ImageNet-Val
  256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 1, 2, 2, 4, 4),
        attention_factors=(16, 32),
        z_channels=16,
        embed_dim=16,
        num_codes=16384,
        disc_layers=2,
        steps=1_101_166,
        batch_size=14,
    )
