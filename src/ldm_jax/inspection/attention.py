"""Where in an image the network looks at each word of its prompt.

Tang et al. 2022, https://arxiv.org/abs/2210.04885: cross-attention probabilities, here as means
over heads, layers and steps for each resolution, so that they stay probabilities.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.inspection.noising import spread
from ldm_jax.inspection.sheet import Cell, heat_over, sheet
from ldm_jax.inspection.view import Subject, View
from ldm_jax.inspection.words import word_tokens
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.pipeline import Generation, Pipeline
from ldm_jax.train.assemble_data import build_tokenizer

_KEPT = "intermediates"


def attention_probabilities(q: Array, k: Array, num_heads: int) -> Array:
    """Returns softmax(q k^T / sqrt(d)), the mean over heads, [b, n, m] float32.

    Args:
      q: [b, n, heads d] queries, heads contiguous.
      k: [b, m, heads d] keys.
      num_heads: h.
    """

    def heads(x: Array) -> Array:
        return x.reshape(*x.shape[:2], num_heads, -1).astype(jnp.float32)

    q, k = heads(q), heads(k)
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=1)


def cross_attention(
    model: Any, params: PyTree, z_t: Array, t: Array, conditioning: Conditioning
) -> dict[int, Array]:
    """Returns the probabilities of a network's cross-attention, the mean over heads and layers.

    Kernels of attention keep no probabilities, and the network is not to be another one because
    somebody looks: Flax itself notes what the layers `to_q` and `to_k` put out in this one call,
    and the probabilities are computed beside. The programs of training and sampling stay as they
    are.

    Args:
      model: the network.
      params: its parameters.
      z_t: [b, h, w, c] noisy latents.
      t: [b] timesteps.
      conditioning: with a `context` of m tokens.

    Returns:
      [b, n, m] by the number n of places in a layer's map.
    """
    num_heads: dict[tuple[str, ...], int] = {}

    def is_projection(module: Any, method: str) -> bool:
        layer = module.parent
        inside = module.name in ("to_q", "to_k") and getattr(layer, "name", "") == "cross_attn"
        if inside:
            num_heads[layer.path] = layer.num_heads
        return inside and method == "__call__"

    _, kept = model.apply(
        {"params": params},
        z_t,
        t,
        conditioning,
        capture_intermediates=is_projection,
        mutable=[_KEPT],
    )
    outputs = traverse_util.flatten_dict(kept.get(_KEPT, {}))
    maps = defaultdict(list)
    for path, heads in num_heads.items():
        (q,), (k,) = (outputs[(*path, name, "__call__")] for name in ("to_q", "to_k"))
        maps[q.shape[1]].append(attention_probabilities(q, k, heads))
    return {places: sum(found[1:], found[0]) / len(found) for places, found in maps.items()}


def word_maps(
    probabilities: np.ndarray, tokens: slice, latent_shape: tuple[int, int]
) -> np.ndarray:
    """Returns how likely each place is to look at a word: the sum over its tokens, [h, w].

    Args:
      probabilities: [n, m].
      tokens: of the word.
      latent_shape: of the network's input; n places are this, divided by a whole number.
    """
    factor = round(math.sqrt(math.prod(latent_shape) / len(probabilities)))
    height, width = (side // factor for side in latent_shape)
    return probabilities[:, tokens].sum(axis=-1).reshape(height, width)


def attention_view(subject: Subject) -> View:
    """Returns the sample under a map of each word, a row for each resolution.

    Raises:
      UserError: the model reads no text, or hands it on by another way than cross-attention.
    """
    task = subject.pipeline.task
    if tuple(task.conditioner.inputs) != ("tokens",):
        reads = ", ".join(task.conditioner.inputs) or "nothing"
        raise UserError(
            f"attention: this model's conditioner reads {reads}. Legal: a model that reads text."
        )
    generation = subject.start()
    (text,) = (subject.prompts or [])[:1]
    words = word_tokens(build_tokenizer(subject.pipeline.config), text)
    probabilities = _over_rows(subject, generation)
    sample = generation.images()[0]
    latent = task.first_stage.latent_shape(*generation.plan.image_shape)[:2]
    rows, lines = [], []
    for _, found in sorted(probabilities.items(), reverse=True):
        maps = [word_maps(found, tokens, latent) for _, tokens in words]
        height, width = maps[0].shape
        high = max(float(values.max()) for values in maps)
        lines.append(f"{height} x {width} places: full colour is a probability of {high:.3f}")
        cells = [
            Cell(heat_over(sample, values, high), f"{word} {values.mean():.3f}")
            for (word, _), values in zip(words, maps, strict=True)
        ]
        rows.append([Cell(sample, f"{height} x {width}"), *cells])
    said = f"words that places attend to, with their mean, sample of seed {subject.seed}"
    return View(sheet([said, *lines], rows), (said, *lines))


class AttentionReader:
    """Reads where a model looks, at any row of any run, by one program.

    Guidance asks the network with and without the prompt; here it is asked with it.
    """

    def __init__(self, pipeline: Pipeline):
        """Takes the model; nothing is compiled before the first call."""
        task = pipeline.task
        self._pipeline = pipeline

        @functools.partial(jax.jit, compiler_options=compiler_options(pipeline.mesh))
        @functools.partial(
            jax.shard_map, mesh=pipeline.mesh, in_specs=P(), out_specs=P(), check_vma=False
        )
        def maps(
            params: PyTree, frozen: PyTree, inputs: Any, z: Array, t: Array
        ) -> dict[int, Array]:
            conditioning = task.condition(params, frozen, inputs)
            if conditioning.context is None:
                raise UserError(
                    "attention: this model's text goes into its time embedding. Legal: a model "
                    "with cross-attention."
                )
            return cross_attention(task.model, params["unet"], z, t, conditioning)

        self._maps = maps

    def __call__(self, generation: Generation, number: int = 0) -> dict[int, np.ndarray]:
        """Returns [n, m] by n, for image `number` of a run as it stands.

        Raises:
          UserError: the network has no cross-attention.
        """
        inputs = {name: x[number : number + 1] for name, x in generation.request.inputs.items()}
        row = min(generation.row, generation.total - 1)  # the clean image as the last row asks
        t = np.asarray(generation.plan.rows.t[row : row + 1], np.float32)
        z = generation.latents()[number : number + 1]
        found = self._maps(*self._pipeline.weights, inputs, z, t)
        if not found:
            raise UserError(
                "attention: this model's network has no cross-attention. Legal: one that has."
            )
        return jax.tree.map(lambda x: np.asarray(x[0]), found)


def mean_maps(found: Sequence[dict[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Returns the mean of several answers of an `AttentionReader`."""
    return jax.tree.map(lambda *x: np.mean(x, axis=0), *found)


def _over_rows(subject: Subject, generation: Generation) -> dict[int, np.ndarray]:
    """Returns [n, m] by n, the mean over evenly spread rows of a run, which it runs so far."""
    read, found = AttentionReader(subject.pipeline), []
    for row in spread(generation.total, subject.frames):
        if row > generation.row:
            generation.advance(row - generation.row)
        found.append(read(generation))
    return mean_maps(found)
