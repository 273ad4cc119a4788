"""VQ first stage, f = 4, 64×64×3 latents, 8192 codes: vq-f4. The argument is the number of codes.

Paper: Table 8, appendix G; OpenImages, 8 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/vq_f4.py --workdir runs/vq_f4 \
  --config.data.source.path=DIR
Published: R-FID 0.58, PSNR 27.43, SSIM 0.82 (trained on OpenImages, measured on ImageNet-Val 256²);
  with 256 codes, `vq_f4.py:256`, R-FID 0.47, PSNR 26.43, SSIM 0.80.
Time: 29 V100-days (Table 18).
Not retrained here.
"""

from published_base import first_stage_config


def get_config(codes="8192"):
    """Returns the configuration with `codes` codes."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 2, 4),
        z_channels=3,
        embed_dim=3,
        num_codes=int(codes),
        steps=533_066,
        batch_size=8,
    )
