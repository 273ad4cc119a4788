"""Inversion, regions, masks and windows on the quickstart's model, which draws what it is told.

Trains it first (ten minutes); `LDM_JAX_QUICKSTART=DIR` takes the folder of an earlier run instead.
"""

import logging

import numpy as np
import pytest

from ldm_jax import Pipeline, Region
from ldm_jax.data.shapes import COLOURS

pytestmark = pytest.mark.slow

FIGURES = logging.getLogger("figures")  # shown by `make test-slow`
PROMPT = "a large red circle at the middle center"


@pytest.fixture(scope="module")
def pipe(quickstart, optimized):
    return Pipeline.from_checkpoint(quickstart / "diffusion")


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def share_of(images, color):
    """Returns the share of pixels nearer to a colour than to any other, and coloured at all."""
    palette = np.array([*COLOURS.values(), (30, 30, 40)], float)
    names = [*COLOURS, "ground"]
    distance = np.linalg.norm(images[..., None, :].astype(float) - palette, axis=-1)
    return np.mean(distance.argmin(-1) == names.index(color))


@pytest.mark.parametrize("refinements", [0, 2])
def test_inversion_round_trip_at_100_steps(pipe, refinements):
    prompts = [
        PROMPT,
        "a small blue cross at the top left",
        "a large green square at the bottom right",
    ]
    images = pipe(prompts, seed=3)
    noise = pipe.invert(images, prompts, steps=100, refinements=refinements)
    back = pipe(prompts, latents=noise, sampler="ddim", steps=100, guidance_scale=1.0)
    figures = [round(psnr(a, b), 1) for a, b in zip(images, back, strict=True)]
    FIGURES.info("inversion, %d refinements: PSNR %s", refinements, figures)
    assert min(figures) >= 30


def test_regions_hold_their_prompts(pipe):
    left = np.zeros((32, 32), np.float32)
    left[:, :16] = 1
    regions = [
        Region("a large red circle at the middle left", left),
        Region("a large blue square at the middle right", 1 - left),
    ]
    images = pipe(PROMPT, num_images=8, seed=1, regions=regions, guidance_scale=3.0)
    west, east = images[:, :, :16], images[:, :, 16:]
    assert share_of(west, "red") > 0.1 > 10 * share_of(west, "blue")
    assert share_of(east, "blue") > 0.1 > 10 * share_of(east, "red")


def test_a_mask_is_filled_and_the_rest_stays(pipe):
    image = pipe(PROMPT, seed=1)[0]
    mask = np.zeros((32, 32), np.float32)
    mask[8:24, 8:24] = 1
    prompt = "a large green square at the middle center"
    for options in ({}, {"resample": 3, "jump": 2}, {"sampler": "dpmpp_2m"}):
        images = pipe(prompt, num_images=4, image=image, mask=mask, guidance_scale=3.0, **options)
        np.testing.assert_array_equal(images[:, mask == 0], np.stack([image[mask == 0]] * 4))
        assert share_of(images, "green") > 0.05 > 10 * share_of(images, "red")


def test_a_prompt_as_its_own_negative_cancels_guidance(pipe):
    own = pipe(PROMPT, num_images=4, seed=2, guidance_scale=4.0, negative=PROMPT, output="float32")
    without = pipe(PROMPT, num_images=4, seed=2, guidance_scale=1.0, output="float32")
    other = pipe(PROMPT, num_images=4, seed=2, guidance_scale=4.0, output="float32")
    np.testing.assert_allclose(own, without, atol=1e-3)
    assert np.abs(other - without).max() > 0.05


def test_windows_leave_no_seams(pipe):
    """Four windows of the training size: the step across a border is no larger than any other."""
    arguments = {"num_images": 4, "seed": 5, "window": (32, 32), "overlap": 8, "tile": 32}
    images = pipe(PROMPT, image_shape=(56, 56), **arguments).astype(float)
    steps = np.abs(np.diff(images, axis=2)).mean(axis=(0, 1, 3))
    borders = steps[[23, 31]]  # where the second window begins, and where the first one ends
    inside = np.delete(steps, [23, 31])
    FIGURES.info("seams %.3f, inside %.3f", borders.mean(), inside.mean())
    assert borders.mean() <= inside.mean()
