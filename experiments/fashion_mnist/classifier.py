"""A small judge for Fashion-MNIST, trained on real images only."""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm


class Classifier(nn.Module):
    """Two convolutions and a hidden layer: [b, 32, 32, 1] in [-1, 1] -> logits [b, 10]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits."""
        for features in (16, 32, 64):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def train_classifier(batches: Iterator[dict[str, np.ndarray]], steps: int, seed: int):
    """Returns `predict(images_u8 [n, 32, 32, 1]) -> classes [n]`."""
    model = Classifier()
    params = model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 1)))
    optimizer = optax.adam(optax.schedules.cosine_decay_schedule(2e-3, steps))
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, images, classes):
        def loss(params):
            logits = model.apply(params, _scaled(images))
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in tqdm(range(steps), desc="classifier", unit="step", mininterval=1.0):
        batch = next(batches)
        params, state = update(params, state, batch["image"], batch["class"])

    classify = jax.jit(lambda images: jnp.argmax(model.apply(params, _scaled(images)), axis=-1))

    def predict(images_u8: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [np.asarray(classify(images_u8[k : k + 500])) for k in range(0, len(images_u8), 500)]
        )

    return predict


def _scaled(images_u8):
    return jnp.asarray(images_u8, jnp.float32) / 127.5 - 1.0
