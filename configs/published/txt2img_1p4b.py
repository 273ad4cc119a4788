"""LDM-KL-8 for text to image on LAION-400M at 256×256, 1.45B parameters: txt2img-1p4B.

Paper: section 4.3.1, Tables 2, 15 and 17.
Command: ldm-jax train --config configs/published/txt2img_1p4b.py --workdir runs/txt2img_1p4b \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/kl_f8 \
  --config.data.tokenizer.path=BERT
BERT is a folder with the tokenizer of bert-base-uncased.
Published: FID 12.63, IS 30.29 with guidance 1.5; 23.31, 20.03 without; 250 DDIM steps, 30k
  captions of MS-COCO val. Figure 5: 200 steps, eta 1, guidance 10. Not retrained here.
"""

import kl_f8
from published_base import huggingface_tokenizer, latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        kl_f8.get_config().task.model,
        {
            "channels": 320,
            "channel_mult": (1, 2, 4, 4),
            "attention_factors": (1, 2, 4),
            "num_heads": 8,
            "transformer_depth": 1,
            "remat": "blocks",
        },
        {
            "name": "text_transformer",
            "vocab_size": 30522,
            "dim": 1280,
            "depth": 32,
            "unused_logits": True,
        },
        betas=(0.00085, 0.012),
        scale_factor=0.18215,
        condition_drop_rate=0.1,  # not published
    )
    config.data.tokenizer = huggingface_tokenizer()
    config.train.update(steps=390_000, batch_size=680, learning_rate=1e-4)
    config.sample.update(steps=250, spacing="reference", guidance_scale=1.5)
    return config
