"""The held-out scenes that models are asked for."""

import dataclasses
from pathlib import Path
from typing import Any

import embed
import numpy as np

from ldm_jax.data.shapes import Shapes
from ldm_jax.train import assemble_data


@dataclasses.dataclass(frozen=True)
class Examples:
    """Held-out scenes, a row each.

    Attributes:
      image: uint8 [n, s, s, 3].
      text: captions.
      label: class numbers [n].
      boxes: [n, objects, 5].
      segmentation: uint8 [n, s, s].
      derived: what the model reads, by name.
      reconstruction: what the first stage makes of the images, uint8 [n, s, s, 3].
      alike: uint8 [n, k, s, s, 3], training images that were found for each, the nearest first.
      alike_label: class numbers [n, k] of these.
    """

    image: np.ndarray
    text: list[str]
    label: np.ndarray
    boxes: np.ndarray
    segmentation: np.ndarray
    derived: dict[str, np.ndarray]
    reconstruction: np.ndarray | None = None
    alike: np.ndarray | None = None
    alike_label: np.ndarray | None = None

    @classmethod
    def load(cls, config: Any, count: int, seed: int) -> "Examples":
        """Returns `count` scenes like those of the configuration, from another seed."""
        settings = {k: v for k, v in config.data.source.items() if k != "name"}
        source = Shapes(**{**settings, "seed": seed, "num_examples": count})
        scenes = [source[k] for k in range(count)]
        training, config = Shapes(**settings), _with_embeddings(config, source)
        derived = assemble_data.build_derived(config)
        batch = (
            assemble_data.build_examples(config, source, None, range(count), ("image", *derived))
            if derived
            else {}
        )
        alike: dict[str, Any] = {}
        if "neighbours" in derived:
            found = [[training[j] for j in derived["neighbours"].nearest(k)] for k in range(count)]
            alike["alike"] = np.array([[x["image"] for x in row] for row in found])
            alike["alike_label"] = np.array([[x["class"] for x in row] for row in found])
        return cls(
            image=np.stack([x["image"] for x in scenes]),
            text=[x["text"] for x in scenes],
            label=np.array([x["class"] for x in scenes]),
            boxes=np.stack([x["boxes"] for x in scenes]),
            segmentation=np.stack([x["segmentation"] for x in scenes]),
            derived={name: batch[name] for name in derived},
            **alike,
        )


def _with_embeddings(config: Any, source: Shapes) -> Any:
    """Returns the configuration with the embeddings of `source` in place of the training ones.

    Neighbours are still those among the training images.
    """
    config = config.copy_and_resolve_references()
    for name, entry in (config.data.get("derive") or {}).items():
        if "embeddings" in entry:
            training = Path(entry.embeddings)
            held_out = training.with_name(f"held_out_{source.seed}_{len(source)}.npy")
            with config.unlocked():
                entry.embeddings = str(embed.write(held_out, source))
                if name == "neighbours":
                    entry.database = str(training)
    return config
