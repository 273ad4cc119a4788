"""The channels of an image's latent."""

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.inspection.sheet import Cell, grey_map, sheet
from ldm_jax.inspection.view import Subject, View


def channel_rows(
    latents: np.ndarray, labels: tuple[str, ...] = ()
) -> tuple[list[list[Cell]], tuple[float, float]]:
    """Returns a row of grey maps per channel, a map per latent, and the range that all share.

    Args:
      latents: [k, h, w, c].
      labels: of the latents; by default none.
    """
    low, high = float(latents.min()), float(latents.max())
    rows = [
        [
            Cell(grey_map(z[..., c], low, high), f"z[{c}] {label}".strip())
            for z, label in zip(latents, labels or ("",) * len(latents), strict=True)
        ]
        for c in range(latents.shape[-1])
    ]
    return rows, (low, high)


def latents_view(subject: Subject) -> View:
    """Returns the image, what its latent decodes to, and a grey map of each channel.

    Raises:
      UserError: the model has no latents.
    """
    if not subject.has_latents:
        raise UserError("latents: this model diffuses pixels. Legal: noising, denoising.")
    image, origin = subject.shown
    z = subject.pipeline.encode(image)
    decoded = subject.pipeline.decode(z)[0]
    rows, (low, high) = channel_rows(z)
    (maps,) = zip(*rows, strict=True)  # of a single latent, one beside the other
    said = f"{origin}; scaled latent {z.shape[1:]}, black {low:.2f}, white {high:.2f}"
    means, stds = z.mean(axis=(0, 1, 2)), z.std(axis=(0, 1, 2))
    labelled = [
        Cell(cell.image, f"{cell.label} {mean:.2f} +- {std:.2f}")
        for cell, mean, std in zip(maps, means, stds, strict=True)
    ]
    whole = [[Cell(image, "image"), Cell(decoded, "decoded"), *labelled]]
    return View(sheet((said, "each channel with its mean and standard deviation"), whole), (said,))
