"""Embeddings of images of shapes: what CLIP's would be to photographs, without a model.

python experiments/tasks/embed.py --out runs/embeddings
Writes train.npy and held_out.npy, float32 [n, 8], a row per scene of one object. A stand-in: no
image tower was ever trained on shapes. It is read off the pixels, and says which colour and which
form an image shows but not where; pictures alike in that lie close by their inner product.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.data.shapes import Shapes

DIM = 8
HELD_OUT_SEED = 1_000_003  # scenes that training never draws
_FAINT = 0.15  # of the strongest contrast; below it is the ground


def embed(image: np.ndarray) -> np.ndarray:
    """Returns float32 [8] of length 1 from uint8 [s, s, 3].

    The mean difference to the ground in red, green and blue, less its mean over these, of length 1:
    the hue. And of the mask w of what stands out (in [0, 1], by contrast) complex moments about its
    centre, the mean of w (z / r)^n for n = 3 and 4 with r^2 that of |z|^2, which neither place nor
    size changes (Flusser and Suk 1993); at last the mean of |z / r|^4 less that of a disc.
    """
    contrast = image.astype(np.float32) - np.median(image, axis=(0, 1))[None, None, :]
    strength = np.sqrt(np.sum(contrast**2, axis=2))
    mask = np.clip(strength / max(np.quantile(strength, 0.995), 1.0), 0.0, 1.0)
    mask = np.where(mask < _FAINT, 0.0, mask)
    total = max(mask.sum(), 1e-6)
    colour = np.einsum("hwc,hw->c", contrast, mask)
    colour -= colour.mean()
    colour /= max(np.linalg.norm(colour), 1e-6)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    z = x - 1j * y
    z = z - (mask * z).sum() / total
    z = z / max(np.sqrt((mask * np.abs(z) ** 2).sum() / total), 1e-6)
    third, fourth = ((mask * z**n).sum() / total for n in (3, 4))
    spread = (mask * np.abs(z) ** 4).sum() / total - 4 / 3
    form = [third.real, third.imag, fourth.real, fourth.imag, spread]
    found = np.concatenate([colour, form])
    return (found / max(np.linalg.norm(found), 1e-6)).astype(np.float32)


def write(path: Path, source: Any) -> Path:
    """Writes the embeddings of a source's images, if they are not there yet; returns the path."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.stack([embed(source[k]["image"]) for k in range(len(source))])
        partial = path.with_suffix(".partial.npy")
        np.save(partial, rows)
        partial.replace(path)  # a file under this name is whole
    return path


def agreement(embeddings: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the share of the k nearest other examples that are of an example's own class."""
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1)[:, :k]
    return float(np.mean(labels[nearest] == labels[:, None]))


def main() -> None:
    """Writes both files; prints how many, and how often neighbours agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/embeddings")
    parser.add_argument("--num_examples", type=int, default=10_000)
    parser.add_argument("--held_out", type=int, default=512)
    parser.add_argument("--image_size", type=int, default=32)
    arguments = parser.parse_args()
    one = {"image_size": arguments.image_size, "min_objects": 1, "max_objects": 1}
    source = Shapes(num_examples=arguments.num_examples, **one)
    held_out = Shapes(num_examples=arguments.held_out, seed=HELD_OUT_SEED, **one)
    folder = Path(arguments.out)
    rows = np.load(write(folder / "train.npy", source))
    write(folder / "held_out.npy", held_out)
    some = min(2000, len(source))
    labels = np.array([source[k]["class"] for k in range(some)])
    found = {f"same_class_of_{k}": agreement(rows[:some], labels, k) for k in (1, 4, 10)}
    print(json.dumps({"train": len(source), "held_out": len(held_out), **found}))


if __name__ == "__main__":
    main()
