"""CLIP's embeddings of images and captions, from a folder of transformers, for the CLIP score."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree
from ldm_jax.data.tokenizers import HuggingFaceTokenizer
from ldm_jax.evaluation.features import Extracted, Extractor
from ldm_jax.evaluation.row_program import RowProgram
from ldm_jax.interop.clip_model import Clip, embed_captions, embed_images, load_clip
from ldm_jax.interop.mapping import flatten


def clip(weights: str | Path | None = None) -> Extractor:
    """Returns the extractor of CLIP's image embeddings, named after its folder.

    Args:
      weights: folder of transformers with a whole CLIPModel.

    Raises:
      UserError: there is none.
    """
    folder, model = _open(weights)

    def apply(params: PyTree, images: Array) -> Extracted:
        three = jnp.broadcast_to(images, (*images.shape[:-1], 3))
        return Extracted(embed_images(model, params, three))

    size = model.image.resolution
    params = {"image": model.params["image"]}
    resize = f"bicubic to {size}x{size}, antialiased"
    return Extractor(f"CLIP {folder.name}", _fingerprint(model), resize, params, apply)


class CaptionEmbedding:
    """Embeds any number of captions by CLIP's text tower.

    Args:
      weights: folder of transformers with a whole CLIPModel and its tokenizer.
      batch_size: captions at once.
      mesh: of the devices; all of them by default.

    Raises:
      UserError: there is none.
    """

    def __init__(self, weights: str | Path, batch_size: int = 64, mesh: Mesh | None = None):
        folder, model = _open(weights)
        self.tokenizer = HuggingFaceTokenizer(str(folder), model.text.length)
        if self.tokenizer.vocab_size > model.text.vocab_size:
            raise UserError(
                f"extractor clip: {folder}: its tokenizer has ids up to "
                f"{self.tokenizer.vocab_size - 1}. Legal: below the tower's "
                f"{model.text.vocab_size}."
            )

        def apply(params: PyTree, tokens: Array) -> dict[str, Array]:
            return {"features": embed_captions(model, params, tokens)}

        params = {name: model.params[name] for name in ("text", "projection")}
        self._embed = RowProgram(params, apply, batch_size, mesh)

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Returns [n, d] float32 of n > 0 captions; what is too long for the tower is cut off."""
        return self._embed(np.stack([self.tokenizer(caption) for caption in captions]))["features"]


def _open(weights: str | Path | None) -> tuple[Path, Clip]:
    """Returns the folder, under its own name, and the model in it."""
    folder = Path(weights).expanduser().resolve() if weights else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"extractor clip: no folder {str(folder or '')!r}. Legal: a folder of transformers "
            "with a whole CLIPModel, such as that of openai/clip-vit-large-patch14."
        )
    return folder, load_clip(folder)


def _fingerprint(model: Clip) -> str:
    """Returns the sha256 of every number in both towers, and of what their shapes do not tell."""
    towers = (model.image, model.text)
    settings = [(tower.num_heads, tower.activation) for tower in towers]
    digest = hashlib.sha256(f"{settings} {model.end}".encode())
    for path, leaf in sorted(flatten(model.params).items()):
        digest.update(f"\n{path} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
