"""Training of the small classifier whose features judge a domain; on real images only."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.core.checks import UserError, check_positive, check_shape
from ldm_jax.core.types import Array, PyTree
from ldm_jax.models.image_classifier import ImageClassifier

_MARGIN = 16  # an image moves by up to a 16th of its edge
_WEIGHT_DECAY = 0.01


def train_classifier(
    model: ImageClassifier,
    images: np.ndarray,
    classes: np.ndarray,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> PyTree:
    """Returns parameters that tell classes apart, by AdamW with a cosine decay, on one device.

    Images are moved by a few pixels, so that where a thing lies matters less than what it is. All
    randomness follows from `seed`. A batch is drawn with replacement.

    Args:
      model: the network.
      images: uint8 [n, h, w, c] of one size.
      classes: [n] in 0 .. num_classes - 1.
      steps: how many batches.
      batch_size: images at once.
      learning_rate: of the first step.
      seed: of the parameters, the batches and the moves.

    Raises:
      UserError: labels that do not fit.
    """
    check_positive("classifier: steps, batch_size", (steps, batch_size))
    _check(model, images, classes)
    params = model.init(jax.random.key(seed), images[:1])["params"]
    schedule = optax.schedules.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    state, rng = optimizer.init(params), np.random.default_rng(seed)
    margin = images.shape[1] // _MARGIN

    @jax.jit
    def update(params: PyTree, state: Any, batch: Array, classes: Array, offsets: Array) -> Any:
        def loss(params: PyTree) -> Array:
            logits = model.bind({"params": params})(_moved(batch, offsets, margin)).logits
            entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, classes)
            return entropy.mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        rows = rng.integers(0, len(images), batch_size)
        offsets = rng.integers(0, 2 * margin + 1, (batch_size, 2))
        params, state = update(params, state, images[rows], classes[rows], offsets)
    return jax.tree.map(np.asarray, params)


def accuracy(
    model: ImageClassifier,
    params: PyTree,
    images: np.ndarray,
    classes: np.ndarray,
    batch_size: int = 256,
) -> float:
    """Returns the share of images, uint8 [n, h, w, c], that are put in their class [n]."""
    _check(model, images, classes)
    starts = range(0, len(images), batch_size)
    found = [_classify(model, params, images[k : k + batch_size]) for k in starts]
    return float(np.mean(np.concatenate(found) == classes))


@functools.partial(jax.jit, static_argnums=0)
def _classify(model: ImageClassifier, params: PyTree, images: Array) -> Array:
    return jnp.argmax(model.bind({"params": params})(images).logits, axis=-1)


def _moved(images: Array, offsets: Array, margin: int) -> Array:
    """Returns images moved by offsets [b, 2] - margin; their edges fill the gap."""
    sides = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    padded = jnp.pad(images, sides, mode="edge")

    def crop(image: Array, offset: Array) -> Array:
        start = (offset[0], offset[1], jnp.zeros_like(offset[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def _check(model: ImageClassifier, images: np.ndarray, classes: np.ndarray) -> None:
    check_shape("classifier: images", images.shape, (None, None, None, None))
    check_shape("classifier: classes", classes.shape, (len(images),))
    if not len(images) or not 0 <= classes.min() <= classes.max() < model.num_classes:
        got = f"{classes.min()} to {classes.max()}" if len(images) else "no images"
        raise UserError(f"classifier: classes: got {got}. Legal: 0 to {model.num_classes - 1}.")
