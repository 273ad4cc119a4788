"""The features of a classifier that was trained on a domain which Inception never saw.

It is one safetensors file: the parameters by their paths and, in the metadata, its settings and
what it was trained on. `classifier_training` makes the parameters.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.features import Extracted, Extractor, file_sha256
from ldm_jax.interop.mapping import flatten, nest
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models.image_classifier import ImageClassifier

_KEY = "image_classifier"
_SETTINGS = ("num_classes", "image_size", "channels", "hidden")
_LEGAL = "Legal: a file that write_classifier has written."


def classifier(weights: str | Path | None = None, sha256: str | None = None) -> Extractor:
    """Returns the extractor of a file, whose name is that of the domain and 'classifier'.

    Args:
      weights: the file of `write_classifier`.
      sha256: that the file must have; None for any.

    Raises:
      UserError: there is no such file, or another one, or it is damaged.
    """
    if not weights:
        raise UserError(f"extractor classifier: got no weights. {_LEGAL}")
    path = Path(weights).expanduser()
    with SafetensorsFile(path) as file:
        found = file_sha256(path)
        if sha256 not in (None, found):
            raise UserError(
                f"extractor classifier: {path} has sha256 {found}, expected {sha256}. Legal: the "
                "file that the reference statistics were made with."
            )
        domain, model = _read_settings(path, file.metadata)
        params = nest({name: file[name] for name in _check_tensors(path, file, model)})

    def apply(params: PyTree, images: Array) -> Extracted:
        output = model.bind({"params": params})(images)
        return Extracted(output.features, output.logits)

    size = model.image_size
    resize = f"bilinear to {size}x{size}, antialiased"
    return Extractor(f"{domain} classifier", found, resize, params, apply)


def write_classifier(
    path: Path, model: ImageClassifier, params: PyTree, domain: str, about: Mapping[str, Any]
) -> None:
    """Writes a classifier as one file, under a temporary name until it is whole.

    Args:
      path: of the .safetensors file to come.
      model: the network.
      params: its parameters.
      domain: what it was trained on in a word or two, for the names of metrics: 'emoji'.
      about: what else should be known, as JSON: data, steps, seed, accuracy.

    Raises:
      UserError: the domain has no name, or poses as Inception.
    """
    if not domain.strip() or "inception" in domain.lower():
        raise UserError(f"extractor classifier: domain: got {domain!r}. Legal: the data's name.")
    settings = {name: getattr(model, name) for name in _SETTINGS}
    note = json.dumps({"domain": domain, "settings": settings, "about": dict(about)})
    leaves = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    infos = {name: TensorInfo(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    with SafetensorsWriter(path, infos, {_KEY: note}) as writer:
        for name, leaf in leaves.items():
            writer.write(name, leaf)


def _read_settings(path: Path, metadata: Mapping[str, str]) -> tuple[str, ImageClassifier]:
    """Returns the domain and the network that a file says it holds."""
    try:
        note = json.loads(metadata[_KEY])
        settings = {name: note["settings"][name] for name in _SETTINGS}
        settings["channels"] = tuple(settings["channels"])
        return str(note["domain"]), ImageClassifier(**settings)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"extractor classifier: {path} is no classifier. {_LEGAL}") from error


def _check_tensors(path: Path, file: SafetensorsFile, model: ImageClassifier) -> list[str]:
    """Returns the names of the parameters, all of which the file has in float32."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), np.uint8)
    shapes = flatten(jax.eval_shape(model.init, key, image)["params"])
    if set(shapes) != set(file.keys()):
        odd = sorted(set(shapes) ^ set(file.keys()))[0]
        raise UserError(f"extractor classifier: {path}: {odd!r} is missing or too much. {_LEGAL}")
    for name, leaf in shapes.items():
        shape, dtype = file.info(name)
        check_shape(f"extractor classifier: {path}: {name!r}", shape, leaf.shape)
        if dtype != np.float32:
            raise UserError(
                f"extractor classifier: {path}: {name!r}: got {dtype}, expected float32. {_LEGAL}"
            )
    return list(shapes)
