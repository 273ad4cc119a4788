"""A judge of category and skin tone that knows no generative model, trained on real emoji only."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage
from split import TONES, Row
from tqdm import tqdm

Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_MARGIN = 4  # pixels that an image is moved by, at most


class Classifier(nn.Module):
    """Convolutions, then two heads: [b, 64, 64, 3] in [-1, 1] -> logits of category and tone."""

    categories: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns [b, categories] and [b, 1 + tones]."""
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for features in (24, 48, 96, 128):
            x = nn.relu(nn.GroupNorm(8)(nn.Conv(features, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(192)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.categories)(x), nn.Dense(1 + len(TONES))(x)


def train_judge(
    images: np.ndarray, rows: list[Row], categories: list[str], steps: int, seed: int = 0
) -> Judge:
    """Returns `judge(images uint8 [n, 64, 64, 3]) -> (categories [n], tones [n])`.

    Images are moved, mirrored, blurred and made noisy in training, so that it looks at what is
    drawn rather than how finely. Captions of several tones are left out.
    """
    known = [k for k, row in enumerate(rows) if row.tone >= 0]
    images = images[known]
    labels = np.array([categories.index(rows[k].category) for k in known])
    tones = np.array([rows[k].tone for k in known])
    model, rng = Classifier(len(categories)), np.random.default_rng(seed)
    params = model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    optimizer = optax.adamw(optax.schedules.cosine_decay_schedule(2e-3, steps), weight_decay=0.01)
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, pixels, labels, tones):
        def loss(params):
            entropy = optax.losses.softmax_cross_entropy_with_integer_labels
            by_category, by_tone = model.apply(params, pixels)
            return (entropy(by_category, labels) + entropy(by_tone, tones)).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in tqdm(range(steps), desc="judge", unit="step", mininterval=1.0):
        chosen = rng.integers(0, len(images), 64)
        pixels = np.stack([_varied(images[k], rng) for k in chosen])
        params, state = update(params, state, pixels, labels[chosen], tones[chosen])

    @jax.jit
    def classify(images):
        return [
            x.argmax(axis=-1) for x in model.apply(params, images.astype(jnp.float32) / 127.5 - 1)
        ]

    def judge(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [classify(images[k : k + 64]) for k in range(0, len(images), 64)]
        by_category, by_tone = zip(*found, strict=True)
        return np.concatenate(by_category), np.concatenate(by_tone)

    return judge


def _varied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns float32 pixels in [-1, 1], moved, mirrored, blurred, noisy."""
    pixels = image.astype(np.float32) / 127.5 - 1
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    moved = np.pad(pixels, [(_MARGIN, _MARGIN)] * 2 + [(0, 0)], mode="edge")
    top, left = rng.integers(0, 2 * _MARGIN + 1, 2)
    moved = moved[top : top + 64, left : left + 64]
    if rng.random() < 0.5:
        moved = ndimage.gaussian_filter(moved, (*[rng.uniform(0.3, 1.5)] * 2, 0))
    return moved + rng.normal(0, rng.uniform(0, 0.08), moved.shape).astype(np.float32)
