"""KL autoencoder, f = 4, for the built-in shapes at 32×32: the first half of `make quickstart`.

Paper: section 3.1 and appendix G, without the perceptual and adversarial terms.
Command: ldm-jax train --config configs/shapes_autoencoder.py --workdir runs/shapes_autoencoder
Result: 0.999 of 1,024 one-object captions hold after encoding and decoding; two CPU cores,
  2 minutes.
"""

from ldm_jax.core.defaults import base_config


def get_config():
    """Returns the configuration."""
    config = base_config()
    config.task = {
        "name": "autoencoder",
        "model": {
            "name": "autoencoder_kl",
            "channels": 16,
            "channel_mult": (1, 2, 2),
            "num_res_blocks": 1,
            "z_channels": 4,
            "embed_dim": 4,
            "num_groups": 8,
        },
        "l1_weight": 1.0,
        "l2_weight": 1.0,
        "kl_weight": 2e-3,  # latents that small errors of the diffusion model do not spoil
    }
    config.data = {
        # Crowded scenes: nine objects teach the decoder more per image than one does.
        "source": {"name": "shapes", "image_size": 32, "max_objects": 9, "num_examples": 50_000},
        "image_size": 32,
    }
    config.train.update(
        steps=1200,
        batch_size=16,
        learning_rate=4e-3,
        schedule={"name": "cosine"},
        warmup_steps=50,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.99,
        log_every=20,
        checkpoint_every=400,
        sample_every=600,
    )
    return config
