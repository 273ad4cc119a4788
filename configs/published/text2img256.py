"""LDM-4 for text to image at 256×256, finetuned on Conceptual Captions: text2img256.

Reference: README and models/ldm/text2img256; the paper has no table of it.
Command: ldm-jax train --config configs/published/text2img256.py --workdir runs/text2img256 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4 \
  --config.data.tokenizer.path=BERT
BERT is a folder with the tokenizer of bert-base-uncased.
Published: FID 16.79, IS 13.89; 100 DDIM steps, eta 0. Not retrained here.
"""

import vq_f4
from published_base import huggingface_tokenizer, latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,
        {
            "channels": 192,
            "channel_mult": (1, 2, 3, 5),
            "attention_factors": (2, 4, 8),
            "num_head_channels": 32,
            "transformer_depth": 1,
        },
        {
            "name": "text_transformer",
            "vocab_size": 30522,
            "dim": 640,
            "depth": 32,
            "unused_logits": True,
        },
    )
    config.data.tokenizer = huggingface_tokenizer()
    # The number of steps is not published.
    config.train.update(batch_size=28, learning_rate=2e-6, scale_learning_rate=True)
    config.sample.update(steps=100, spacing="reference")
    return config
