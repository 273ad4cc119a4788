"""A whole CLIP in a folder of transformers: both towers, and the text's way into their space."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning.clip_image import ClipImage
from ldm_jax.conditioning.clip_text import ClipText
from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import PyTree
from ldm_jax.interop.clip_image_names import clip_image_settings
from ldm_jax.interop.diffusers import open_weights, read_json
from ldm_jax.interop.towers import TOWERS, read_tower

_PROJECTION = "text_projection.weight"
# Of configurations from before transformers 4.31, which name a wrong end token.
_WRONG_END = 2


class Clip(NamedTuple):
    """CLIP's two towers, whose answers lie in one space.

    Attributes:
      image: the image tower, with its projection.
      text: the text tower; its answer at the end token is to be projected.
      params: float32, of the towers under 'image' and 'text', and 'projection' [dim, d].
      end: id of the end token; None where it is the largest id of a caption.
    """

    image: ClipImage
    text: ClipText
    params: PyTree
    end: int | None


def load_clip(folder: Path) -> Clip:
    """Returns the model of a folder with a CLIPModel's config.json and weights.

    Raises:
      UserError: there is none, or another one, or tensors that do not fit.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise UserError(
            f"{folder}: got a model of type {config.get('model_type')!r}. Legal: 'clip', a whole "
            "CLIPModel of transformers with both towers."
        )
    image = ClipImage(**_fields(clip_image_settings(config)))
    text = ClipText(**_fields(TOWERS[ClipText].settings(config)))
    size = image.resolution
    batches = {
        "image": (image, {"image": np.zeros((1, size, size, 3), np.uint8)}),
        "text": (text, {"tokens": np.zeros((1, text.length), np.int32)}),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = {}
    for name, (tower, batch) in batches.items():
        shapes = jax.eval_shape(tower.init, key, batch)["params"]
        params[name] = read_tower("clip", folder, tower, shapes)
    with open_weights(folder) as tensors:
        if _PROJECTION not in tensors.keys():
            raise UserError(f"{folder}: {_PROJECTION!r} is missing. Legal: a whole CLIPModel.")
        projection = tensors[_PROJECTION]
    check_shape(f"{folder}: {_PROJECTION!r}", projection.shape, (image.projection_dim, text.dim))
    params["projection"] = projection.T
    end = config["text_config"].get("eos_token_id", _WRONG_END)
    return Clip(
        image,
        text,
        jax.tree.map(lambda x: np.asarray(x, np.float32), params),
        None if end == _WRONG_END else end,
    )


def embed_images(clip: Clip, params: PyTree, images: Any) -> jax.Array:
    """Returns embeddings [b, d] of images, uint8 [b, h, w, 3], squeezed where not square."""
    tower = clip.image.bind({"params": params["image"]})
    return tower.encode(tower.prepare(images))


def embed_captions(clip: Clip, params: PyTree, tokens: Any) -> jax.Array:
    """Returns embeddings [b, d] of captions, int32 [b, length], read at their first end token."""
    context = clip.text.bind({"params": params["text"]}).encode(tokens)
    ends = jnp.argmax(tokens if clip.end is None else tokens == clip.end, axis=1)
    pooled = jnp.take_along_axis(context, ends[:, None, None], axis=1)[:, 0]
    return jnp.dot(pooled, params["projection"], precision=jax.lax.Precision.HIGHEST)


def _fields(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "name"}
