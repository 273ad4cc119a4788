"""How good images are beside real ones, by features of a named extractor."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_range
from ldm_jax.core.config import build
from ldm_jax.data.pipeline import load_examples
from ldm_jax.evaluation.classifier_features import write_classifier
from ldm_jax.evaluation.classifier_training import accuracy, train_classifier
from ldm_jax.evaluation.extractors import EXTRACTORS
from ldm_jax.evaluation.features import Extraction, Extractor
from ldm_jax.evaluation.fid import FeatureStatistics, fid
from ldm_jax.evaluation.kid import SUBSET_SIZE, kid
from ldm_jax.evaluation.metric_names import metric_name
from ldm_jax.evaluation.precision_recall import precision_recall
from ldm_jax.models.image_classifier import ImageClassifier
from ldm_jax.train import assemble_data

_BATCH = 512  # images in memory at once


class Judge:
    """Scores sets of images against one set of real ones.

    Args:
      extractor: of the features, in whose name the scores are.
      real: the images to be like, in batches, uint8 [n, h, w, c] each.
    """

    def __init__(self, extractor: Extractor, real: Iterable[np.ndarray]):
        self._extract, self.extractor = Extraction(extractor), extractor
        self._real = np.concatenate([self._extract(images)["features"] for images in real])

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Returns Fréchet and kernel distance of images, uint8 [m, h, w, c], by their full names.

        Raises:
          UserError: fewer than two images.
        """
        features = self._extract(images)["features"]
        size = min(SUBSET_SIZE, len(features), len(self._real))
        name = self.extractor.name
        return {
            metric_name("fid", name): fid(_statistics(features), _statistics(self._real)),
            metric_name("kid", name): kid(features, self._real, size=size).mean,
        }

    def spread(self, images: np.ndarray) -> dict[str, float]:
        """Returns precision and recall of images, by their full names.

        As many real images are compared as there are samples, so that the two have balls alike.

        Raises:
          UserError: fewer than five images.
        """
        features = self._extract(images)["features"]
        found = precision_recall(self._real[: len(features)], features)
        return {metric_name(x, self.extractor.name): getattr(found, x) for x in found._fields}

    def follows(self, images: np.ndarray, classes: np.ndarray) -> float:
        """Returns the share of images that the classifier puts in the classes [m] asked for."""
        logits = self._classify(images)["logits"]
        return float(np.mean(np.argmax(logits, axis=-1) == classes))

    @functools.cached_property
    def _classify(self) -> Extraction:
        return Extraction(self.extractor, ("logits",))


def open_judge(config: ConfigDict, extractor: Mapping[str, Any], count: int) -> Judge:
    """Returns the judge that compares with the first `count` images of `real_batches`.

    Args:
      config: of the data.
      extractor: its name and, where it has any, `weights`.
      count: of real images.
    """
    reference = real_batches(config, 0, count)
    return Judge(build("extractor", EXTRACTORS, extractor), (batch["image"] for batch in reference))


def real_images(config: ConfigDict, first: int, count: int) -> dict[str, np.ndarray]:
    """Returns all of `real_batches` as one."""
    batches = list(real_batches(config, first, count))
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def real_batches(config: ConfigDict, first: int, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields `count` training examples: their images, and their classes where they have any.

    They are numbers `first`, `first` + 1, … of an order that depends on the size of the data alone,
    so that two ranges apart share no image.

    Raises:
      UserError: more than there are.
    """
    source, _ = assemble_data.build_source(config)
    check_range(f"sweep: images from number {first} on", count, 1, len(source) - first)
    order = np.argsort(np.random.PCG64(0).random_raw(len(source)), kind="stable")
    chosen, data = order[first : first + count].tolist(), config.data
    for start in range(0, count, _BATCH):
        yield load_examples(
            source,
            chosen[start : start + _BATCH],
            image_size=data.image_size,
            channels=data.get("channels", 3),
            keys=("image", "class") if "class" in source[0] else ("image",),
        )


def make_classifier(
    config: ConfigDict, path: Path, domain: str, steps: int, train: int, held_out: int
) -> float | None:
    """Writes the classifier that judges a domain, unless it is there; returns its accuracy.

    Args:
      config: whose data it learns, with their classes.
      path: of the .safetensors file.
      domain: its name in reports.
      steps: of 64 images.
      train: how many images it learns from.
      held_out: how many others its accuracy is of; None is returned where the file is there.

    Raises:
      UserError: data without classes.
    """
    if path.is_file():
        return None
    examples = real_images(config, 0, train + held_out)
    if "class" not in examples:
        raise UserError(
            f"sweep: the {domain} classifier: got data without classes. Legal: a source with "
            "classes."
        )
    images, classes = examples["image"], examples["class"]
    names = assemble_data.build_source(config)[0].class_names
    num_classes = len(names) if names else int(classes.max()) + 1
    model = ImageClassifier(num_classes=num_classes, image_size=config.data.image_size)
    params = train_classifier(model, images[:train], classes[:train], steps)
    found = accuracy(model, params, images[train:], classes[train:])
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"steps": steps, "images": train, "held_out": held_out, "accuracy": found}
    write_classifier(path, model, params, domain, about)
    return found


def _statistics(features: np.ndarray) -> FeatureStatistics:
    found = FeatureStatistics(features.shape[1])
    found.update(features)
    return found
