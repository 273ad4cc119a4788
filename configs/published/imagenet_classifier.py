"""The classifier of noisy LDM-8 latents that guides LDM-8-G on ImageNet 256×256.

Paper: Tables 3, 10 and 18; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4. The reference has
the code and no settings. With LDM-8's widths and an attention pool the classifier has 111,604,200
parameters, and with LDM-8's U-Net the 506M that the paper prints: so much is inferred. The
weight decay is the code's. Steps, batch and learning rate are assumed, those of guided-diffusion's
README for another classifier, without its annealing.
Command: ldm-jax train --config configs/published/imagenet_classifier.py \
  --workdir runs/imagenet_classifier --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/imagenet_vq_f8
Published: with this classifier at scale 10, LDM-8 goes from FID 15.51 to 7.76 (8.11 after 2.9M
  steps).
Time: 12 V100-days. Not retrained here.
"""

import imagenet_vq_f8


def get_config():
    """Returns the configuration."""
    config = imagenet_vq_f8.get_config()
    unet, guided = config.task.model, config.task
    config.task = {
        "name": "latent_classifier",
        "model": {
            "name": "unet_encoder",
            "out_channels": 1000,
            "channels": unet.channels,
            "channel_mult": unet.channel_mult,
            "attention_factors": unet.attention_factors,
            "num_head_channels": unet.num_head_channels,
            "pool": "attention",
        },
        "first_stage": guided.first_stage.to_dict(),
        "schedule": guided.schedule.to_dict(),
    }
    config.train.update(
        steps=300_000,
        batch_size=256,
        learning_rate=3e-4,
        scale_learning_rate=False,
        weight_decay=0.01,
        ema_decay=0.0,  # the reference averages no classifier
    )
    return config
