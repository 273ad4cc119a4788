"""The training images that samples are most like: a check of memorisation."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.inspection.nearest import nearest_rows, share_nearer
from ldm_jax.inspection.noising import spread
from ldm_jax.inspection.sheet import Cell, sheet
from ldm_jax.inspection.view import Subject, View
from ldm_jax.train.image_reader import ImageReader, image_readers

_SHOWN = 5  # neighbours of a sample
_JUDGES = 256  # images whose distances are set beside
_BLOCK_BYTES = 2**26  # of float64 at once
_ARRAYS = ("train", "held_out", "samples")


class Space(NamedTuple):
    """Where distances are measured.

    Attributes:
      unit: what they are, in words.
      divisor: of Euclidean distances.
      samples: [v, n, d], each in v views.
      judges: [v, j, d], likewise.
      own: [j], the number of the training image that a judge is; None where they are others.
      blocks: the training images in order, [b, d] each.
      total: of them.
    """

    unit: str
    divisor: float
    samples: np.ndarray
    judges: np.ndarray
    own: np.ndarray | None
    blocks: Iterator[np.ndarray]
    total: int


def neighbours_view(subject: Subject) -> View:
    """Returns each sample and the training images nearest to it, nearest first.

    Beside their distances stand those of images that were not trained on, to their own nearest
    training images: a sample that is much nearer than these is a copy. Where a run holds nothing
    out, training images take their place, each compared with all the others.

    Raises:
      UserError: no training images can be read, or features that do not fit.
    """
    train, held_out = image_readers(subject.pipeline.config)
    samples = subject.samples()
    if subject.features is None:
        space = _pixels(train, held_out, samples)
    else:
        space = _features(subject.features, len(samples), len(train))
    rows = np.concatenate([space.samples, space.judges], axis=1)
    own = np.full(rows.shape[1], -1)
    if space.own is not None:
        own[len(samples) :] = space.own
    count = min(_SHOWN, space.total - 1)
    if count < 1:
        raise UserError("neighbours: got 1 training image. Legal: at least 2.")
    distances, numbers = nearest_rows(rows, space.blocks, count, own)
    distances = distances / space.divisor
    others = distances[len(samples) :, 0]
    who = "held-out images" if space.own is None else "training images, each without itself,"
    said = [
        f"distance: {space.unit}; to {space.total} training images",
        f"{len(others)} {who} are at {_quantiles(others)} from their nearest",
    ]
    cells = []
    for k, image in enumerate(samples):
        share = share_nearer(distances[k, 0], others)
        names = [train.whole_number(number) for number in numbers[k]]
        shown = zip(train.read(numbers[k]), names, distances[k], strict=True)
        row = [Cell(x, f"{name}: {distance:.3g}") for x, name, distance in shown]
        cells.append([Cell(image, f"sample {k}: {share:.0%}"), *row])
        said.append(
            f"sample {k}: nearest is training image {names[0]} at {distances[k, 0]:.3g}; "
            f"{share:.0%} of {who.split(',')[0]} are nearer to theirs"
        )
    title = [*said[:2], "per cent: how many of these are nearer to theirs than the sample"]
    return View(sheet(title, cells), tuple(said))


def _pixels(train: ImageReader, held_out: ImageReader | None, samples: np.ndarray) -> Space:
    """Returns pixels, in both orientations if the model was trained on both."""
    judges = train if held_out is None else held_out
    chosen = np.asarray(spread(len(judges), _JUDGES))

    def views(images: np.ndarray) -> np.ndarray:
        both = [images, images[:, :, ::-1]] if train.mirrored else [images]
        return np.stack([x.reshape(len(x), -1) for x in both])

    size = samples[0].size
    step = max(1, _BLOCK_BYTES // (8 * size))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(train), step):
            images = train.read(range(start, min(start + step, len(train))))
            yield images.reshape(len(images), -1)

    unit = "root mean square difference in grey levels"
    return Space(
        f"{unit}, of the nearer orientation" if train.mirrored else unit,
        size**0.5,
        views(samples),
        views(judges.read(chosen)),
        chosen if held_out is None else None,
        blocks(),
        len(train),
    )


def _features(file: str, num_samples: int, num_train: int) -> Space:
    """Returns the rows of a file: of training images, held-out ones and samples.

    Raises:
      UserError: the file cannot be read, or holds other rows.
    """
    try:
        with np.load(Path(file).expanduser(), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--features={file}: no .npz of plain arrays ({error}).") from error
    legal = f"{', '.join(_ARRAYS)}, floats [n, d] each"
    shapes = {name: (x.dtype.name, *x.shape) for name, x in found.items()}
    right = set(found) == set(_ARRAYS) and all(
        x.ndim == 2 and x.size and x.dtype.kind == "f" and np.all(np.isfinite(x))
        for x in found.values()
    )
    if not right or len({x.shape[1] for x in found.values()}) != 1:
        raise UserError(f"--features={file}: got {shapes}. Legal: finite {legal}, of one d.")
    for name, count in (("samples", num_samples), ("train", num_train)):
        if len(found[name]) != count:
            raise UserError(
                f"--features={file}: {name} has {len(found[name])} rows. Legal: {count}, one for "
                "each image in order."
            )
    train = found["train"]
    step = max(1, _BLOCK_BYTES // (8 * train.shape[1]))
    blocks = (train[start : start + step] for start in range(0, len(train), step))
    samples, judges = found["samples"][None], found["held_out"][None]
    unit = f"Euclidean, of the features in {Path(file).name}"
    return Space(unit, 1.0, samples, judges, None, blocks, len(train))


def _quantiles(others: np.ndarray) -> str:
    least, low, half = np.quantile(others, [0, 0.05, 0.5])
    return f"{least:.3g} (the least), {low:.3g} (5 %), {half:.3g} (half)"
