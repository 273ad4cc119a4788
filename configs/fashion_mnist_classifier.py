"""A classifier of noisy latents on Fashion-MNIST, to guide the model of fashion_mnist_class.py.

Paper: classifier guidance, section 4.1 and Table 3 (LDM-8-G), after Dhariwal & Nichol 2021
(arXiv 2105.05233), section 4. It takes first stage and scale from the model that it guides.
Command: ldm-jax train --config configs/fashion_mnist_classifier.py \
  --workdir runs/fashion_classifier --config.data.source.path=TFDS_DIR \
  --config.task.first_stage.workdir=runs/fashion_class
Result: not trained to the end yet.
"""

import fashion_mnist_class


def get_config():
    """Returns the configuration."""
    config = fashion_mnist_class.get_config()
    guided = config.task
    config.task = {
        "name": "latent_classifier",
        "model": {
            "name": "unet_encoder",
            "out_channels": 10,
            "channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_factors": (2,),
            "num_head_channels": 32,
            "num_groups": 16,
            "pool": "attention",
        },
        "first_stage": guided.first_stage.to_dict(),
        "schedule": guided.schedule.to_dict(),
    }
    config.train.update(
        steps=1500,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=50,
        b2=0.999,
        weight_decay=0.01,
        ema_decay=0.99,
        checkpoint_every=500,
    )
    return config
