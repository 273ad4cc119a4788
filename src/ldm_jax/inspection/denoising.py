"""How an image comes out of noise."""

from typing import NamedTuple

import numpy as np

from ldm_jax.inspection.noising import spread
from ldm_jax.inspection.sheet import Cell, sheet
from ldm_jax.inspection.view import Subject, View
from ldm_jax.pipeline import Generation


class Frames(NamedTuple):
    """A run of sampling at some of its rows, and at its end.

    Attributes:
      t: [k] timesteps.
      noisy: uint8 [k + 1, H, W, C], z_t decoded; at last the sample.
      expected: uint8 [k + 1, H, W, C], x0 as predicted from z_t, decoded; at last the sample.
    """

    t: np.ndarray
    noisy: np.ndarray
    expected: np.ndarray


def denoising_frames(generation: Generation, count: int) -> Frames:
    """Returns `count` frames of the first image of a run that has not begun, and runs it.

    The loop is stopped between rows, which changes no bit of the sample.

    Args:
      generation: the run.
      count: rows to look at, evenly spread from the first to the last.
    """
    rows = spread(generation.total, count)
    noisy, expected = [], []
    for row in rows:
        if row > generation.row:
            generation.advance(row - generation.row)
        noisy.append(generation.noisy()[0])
        generation.advance(1)
        expected.append(generation.expected()[0])
    sample = generation.images()[0]
    t = np.asarray(generation.plan.rows.t)[rows]
    return Frames(t, np.stack([*noisy, sample]), np.stack([*expected, sample]))


def denoising_view(subject: Subject) -> View:
    """Returns z_t of a sample in the making, and below the x0 that is predicted from it."""
    frames = denoising_frames(subject.start(), subject.frames)
    labels = [*(f"t = {t:.4g}" for t in frames.t), "sample"]
    strips = [
        [
            Cell(image, f"{name} {label}".strip())
            for image, label in zip(images, labels, strict=True)
        ]
        for name, images in (("", frames.noisy), ("x0 of", frames.expected))
    ]
    # The sample is no prediction.
    strips[1][-1] = Cell(frames.expected[-1], "sample")
    said = f"x_t, and x_0 as predicted from it, sample of seed {subject.seed}"
    return View(sheet([said, *_prompted(subject)], strips), (said,))


def _prompted(subject: Subject) -> list[str]:
    if subject.prompts:
        return [subject.prompts[0]]
    return [f"class {subject.classes[0]}"] if subject.classes else []
