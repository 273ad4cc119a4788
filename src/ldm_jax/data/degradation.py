"""Low-resolution versions of images, for super-resolution models."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.data.resampling import FILTERS, antialiased, resample

KINDS = ("bicubic", "bsr_light")
STEPS = ("blur", "reduce", "finish", "noise", "compress")
_QUALITIES = (80, 95)
_STRIDE_TAPS = 25


class LowResolution:
    """Shrinks the image, float32 [H / factor, W / factor, C] in [-1, 1].

    Differs from the reference: its crop for super-resolution has a random side of half of the
    image's shorter one or more and is resized by areas (ldm/data/imagenet.py:272-372), because
    the crop and its size are those of all the entries of an example: see `transform_example`.

    Args:
      factor: of the edge; must divide the image's.
      kind: 'bicubic', with antialiasing, as the paper's tables; or 'bsr_light', the degradation of
        its models for the wild (Zhang et al. 2021, arXiv 2103.14006, in the reference's light
        form): blur, two reductions, noise and JPEG in random order.
    """

    reads = ("image",)

    def __init__(self, factor: int = 4, kind: str = "bicubic"):
        if factor < 2:
            raise UserError(f"low_res factor={factor}: legal is 2 or more.")
        self.factor, self.kind = factor, check_in("low_res kind", kind, KINDS)

    def shape(self, image_size: int) -> tuple[tuple[int | None, ...], Any]:
        """Returns shape and type of the small image; the channels are those of the image."""
        if image_size % self.factor:
            raise UserError(f"low_res factor={self.factor} must divide image_size={image_size}.")
        edge = image_size // self.factor
        return (edge, edge, None), np.float32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the small version of example['image'], uint8 [H, W, C]."""
        image = example["image"]
        if self.kind == "bicubic":
            size = image.shape[1] // self.factor, image.shape[0] // self.factor
            small = np.asarray(_pillow(image).resize(size, Image.Resampling.BICUBIC))
            small = small.reshape(size[1], size[0], image.shape[2])
        else:
            small = bsr_light(image, self.factor, rng)
        return small.astype(np.float32) / 127.5 - 1


def bsr_light(image: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a degraded uint8 [H // factor, W // factor, C] of an image uint8 [H, W, C].

    The reference's `degradation_bsrgan_variant`, light form (bsrgan_light.py:534-621). A factor of
    4 is, one time in four, half the size first and a factor of 2 from then on. Then `step_order`:
    a Gaussian blur; a reduction by a random factor between 1 and twice the factor, or (one in
    five) by a Gaussian and every factor-th pixel; a resize to the final size, which may enlarge;
    noise of one or two levels; JPEG, nine times in ten. JPEG once more at the end.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    x = image[: height * factor, : width * factor].astype(np.float32) / 255
    if factor == 4 and rng.random() < 0.25:
        x = _halved(x, rng)
        factor = 2
    steps: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "blur": lambda x: convolved(x, blur_kernel(factor, rng)),
        "reduce": lambda x: _reduced(x, factor, rng),
        "finish": lambda x: _clipped(resample(x, (height, width), _any_filter(rng))),
        "noise": lambda x: _clipped(x + noise(x.shape, rng)),
        "compress": lambda x: _jpeg(x, rng) if rng.random() < 0.9 else x,
    }
    for name in step_order(rng):
        x = steps[name](x)
    return _as_uint8(_jpeg(x, rng))


def step_order(rng: np.random.Generator) -> list[str]:
    """Returns STEPS in random order, but `reduce` before `finish`: swapped if it is not.

    The reference shuffles seven, two of which do nothing; the order of the five is as likely.
    """
    order = [STEPS[k] for k in rng.permutation(len(STEPS))]
    first, last = order.index("reduce"), order.index("finish")
    if first > last:
        order[first], order[last] = order[last], order[first]
    return order


def blur_kernel(factor: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a Gaussian [k, k] that sums to one: round, or an ellipse of any direction."""
    # Differs from the reference: k is odd, the even ones one more, because those would move the
    # image by half a pixel, which is half of a small one after the reductions.
    if rng.random() < 0.5:
        size, angle = rng.integers(5, 15), rng.uniform(0, np.pi)
        variances = (4 + factor) / 4 * (1 - rng.random(2))  # never zero
    else:
        size, angle = rng.integers(5, 8), 0.0
        variances = np.full(2, ((2 + 0.2 * factor) / 4 * (1 - rng.random())) ** 2)
    taps = np.arange(-(size // 2), size // 2 + 1)
    y, x = np.meshgrid(taps, taps, indexing="ij")
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.sin(angle) * x - np.cos(angle) * y
    kernel = np.exp(-0.5 * (along**2 / variances[0] + across**2 / variances[1]))
    return kernel / kernel.sum()


def convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the image [H, W, C] blurred by a kernel [k, k], mirrored at its edges."""
    return ndimage.convolve(image, kernel[:, :, None].astype(np.float32), mode="mirror")


def strided(image: np.ndarray, factor: int, sigma: float) -> np.ndarray:
    """Returns every factor-th pixel of the image after a Gaussian, without displacing it.

    The kernel is moved so that the first pixel is the mean about the middle of the first
    `factor` pixels: by interpolation, as the reference's `shift_pixel` does.
    """
    taps = np.arange(_STRIDE_TAPS)
    gaussian = np.exp(-0.5 * ((taps - _STRIDE_TAPS // 2) / sigma) ** 2)
    moved = np.interp(taps + (factor - 1) / 2, taps, gaussian)
    for axis in (0, 1):
        image = ndimage.convolve1d(image, moved / moved.sum(), axis, mode="mirror")
    return image[::factor, ::factor]


def noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Returns Gaussian noise, float32 [H, W, C] or [H, W, 1], of one or two of 255 levels.

    Coloured or grey, two times in five each; else of channels that go together, of two levels
    or less.
    """
    level, kind = rng.integers(1, 3) / 255, rng.random()
    if kind > 0.6:
        return rng.normal(0, level, shape).astype(np.float32)
    if kind < 0.4:
        return rng.normal(0, level, (*shape[:2], 1)).astype(np.float32)
    channels = shape[2]
    basis = np.linalg.svd(rng.random((channels, channels)))[0]
    covariance = np.abs(basis.T @ np.diag(rng.random(channels)) @ basis) * (2 / 255) ** 2
    drawn = rng.multivariate_normal(np.zeros(channels), covariance, shape[:2], "ignore")
    return drawn.astype(np.float32)


def _halved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = image.shape[0] // 2, image.shape[1] // 2
    if rng.random() < 0.5:
        return _clipped(resample(image, size, _any_filter(rng)))
    return _clipped(resample(image, size, antialiased))


def _reduced(image: np.ndarray, factor: int, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.8:
        by = rng.uniform(1, 2 * factor)
        # Differs from the reference: one pixel is left of an image of a few, which it cannot do.
        size = max(int(image.shape[0] / by), 1), max(int(image.shape[1] / by), 1)
        return _clipped(resample(image, size, _any_filter(rng)))
    return _clipped(strided(image, factor, rng.uniform(0.1, 0.6 * factor)))


def _any_filter(rng: np.random.Generator) -> Callable[[int, int], np.ndarray]:
    return FILTERS[rng.integers(len(FILTERS))]


def _jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    quality = int(rng.integers(*_QUALITIES, endpoint=True))
    _pillow(_as_uint8(image)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return np.asarray(opened).reshape(image.shape).astype(np.float32) / 255


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 1).astype(np.float32)


def _as_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _pillow(image: np.ndarray) -> Image.Image:
    plain = image[..., 0] if image.shape[2] == 1 else image
    return Image.fromarray(np.ascontiguousarray(plain))
