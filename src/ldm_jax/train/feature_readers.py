"""What is kept of every image that is evaluated: features, or how near it is to another one."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.clip_features import CaptionEmbedding
from ldm_jax.evaluation.extractors import EXTRACTORS
from ldm_jax.evaluation.features import OUTPUTS, Extraction, Extractor
from ldm_jax.evaluation.reconstruction import SSIM_WINDOW, psnr, ssim
from ldm_jax.evaluation.row_program import RowProgram
from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.models.lpips import LPIPS
from ldm_jax.tasks.base import to_float_images
from ldm_jax.train.fingerprint import params_hash
from ldm_jax.train.reference_set import ReferenceSet

PAIRED = ("psnr", "ssim", "lpips")


class Reader(NamedTuple):
    """What reads numbers of images.

    Attributes:
      key: what they follow from beside the image, as JSON.
      shapes: of a row of each of its arrays.
      read: (numbers [n], images or captions, n) -> arrays [n, …] float32 by name.
    """

    key: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[np.ndarray, Any], Mapping[str, np.ndarray]]


def make_extractor(text: str) -> Extractor:
    """Returns the extractor of `--extractor NAME` or `NAME:WEIGHTS`.

    Raises:
      UserError: an unknown name, or weights that are missing, or not those of this extractor.
    """
    name, separator, weights = text.partition(":")
    make = EXTRACTORS[check_in("--extractor", name, EXTRACTORS)]
    takes = "weights" in inspect.signature(make).parameters
    if separator and not (takes and weights):
        legal = f"{name}:PATH" if takes else name
        raise UserError(f"--extractor={text}: legal is {legal}.")
    return cast(Extractor, make(weights) if weights else make())


def extractor_reader(
    extractor: Extractor, image_shape: tuple[int, int, int], batch_size: int, mesh: Mesh
) -> Reader:
    """Returns what reads everything that an extractor knows of an image.

    Args:
      extractor: which.
      image_shape: (H, W, C) of the images.
      batch_size: images at once.
      mesh: of the devices.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    found = jax.eval_shape(extractor.apply, extractor.params, image)._asdict()
    shapes = {name: found[name].shape[1:] for name in OUTPUTS if found[name] is not None}
    extract = Extraction(extractor, tuple(shapes), batch_size, mesh)
    key = {"name": extractor.name, "sha256": extractor.fingerprint, "resize": extractor.resize}
    return Reader(key, shapes, lambda numbers, images: extract(images))


def caption_reader(folder: str, clip: Extractor, batch_size: int, mesh: Mesh) -> Reader:
    """Returns what reads the embeddings of captions by the CLIP whose image tower `clip` is."""
    embed = CaptionEmbedding(folder, batch_size, mesh)
    width = jax.eval_shape(
        lambda params, images: clip.apply(params, images).features,
        clip.params,
        jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8),
    ).shape[1]
    return Reader(
        {
            "name": f"captions of {clip.name}",
            "sha256": clip.fingerprint,
            "length": embed.tokenizer.length,
        },
        {"features": (width,)},
        lambda numbers, captions: {"features": embed(captions)},
    )


def pair_reader(
    metric: str,
    images: ReferenceSet,
    batch_size: int,
    mesh: Mesh,
    lpips_weights: str | None = None,
) -> Reader:
    """Returns what tells how near reconstructions are to their images.

    Args:
      metric: of `PAIRED`.
      images: that were reconstructed.
      batch_size: images at once.
      mesh: of the devices.
      lpips_weights: file of LPIPS' weights; None for those that are installed.

    Raises:
      UserError: images that are too small, or weights that are not there.
    """
    size = images.preprocessing["image_size"]
    if metric == "ssim" and size < SSIM_WINDOW:
        raise UserError(f"--metrics=ssim: images of {size} pixels. Legal: {SSIM_WINDOW} and more.")
    params: PyTree = load_lpips(lpips_weights) if metric == "lpips" else {}

    def compare(params: PyTree, pairs: Array) -> dict[str, Array]:
        x, y = pairs[:, 0], pairs[:, 1]
        if metric == "lpips":
            distance = LPIPS().apply({"params": params}, to_float_images(x), to_float_images(y))
            return {metric: cast(Array, distance)}
        return {metric: {"psnr": psnr, "ssim": ssim}[metric](x, y)}

    program = RowProgram(params, compare, batch_size, mesh)
    return Reader(
        {"name": metric, "sha256": params_hash(params) if params else None},
        {metric: ()},
        lambda numbers, found: program(np.stack([images.images(numbers), found], axis=1)),
    )
