"""VQ first stage, f = 2, 128×128×2 latents, 2048 codes: the vq-f2 of Table 8, never released.

Paper: Table 8, appendix G; OpenImages. The table gives latent and codes; the widths are assumed to
be those of the other models, and batch and steps to be those of vq-f4. The argument is the number
of codes.
Command: ldm-jax train --config configs/published/vq_f2.py --workdir runs/vq_f2 \
  --config.data.source.path=DIR
Published: R-FID 0.16, PSNR 30.85, SSIM 0.91 (trained on OpenImages, measured on ImageNet-Val 256²);
  with 64 codes, `vq_f2.py:64`, R-FID 0.40, PSNR 29.13, SSIM 0.90.
Not retrained here.
"""

from published_base import first_stage_config


def get_config(codes="2048"):
    """Returns the configuration with `codes` codes."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 2),
        z_channels=2,
        embed_dim=2,
        num_codes=int(codes),
        steps=533_066,
        batch_size=8,
    )
