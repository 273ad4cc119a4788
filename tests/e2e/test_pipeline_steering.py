"""A run that is changed under way is the run whose rows were told different things."""

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import Region
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import advance, image_keys, initial_noise, initial_state
from ldm_jax.samplers.constraints import keep_known, on_x0
from ldm_jax.samplers.guidance import regional

RED, BLUE = "a large red circle at the top left", "a small blue cross at the bottom right"
GREEN = "a large green square at the middle center"
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
LEFT = np.repeat([np.arange(16) < 8], 16, axis=0).astype(np.float32)
STEPS, CUT, SEED = 6, 2, 5
SETTINGS = {"steps": STEPS, "seed": SEED, "sampler": "dpmpp_2m", "output": "float32"}


@pytest.fixture(scope="module")
def pipeline(vivid):
    return vivid["text"]


def latent(mask):
    """Returns a mask of whole cells [16, 16] at the latent's size, [1, 8, 8]."""
    return mask[None, ::2, ::2].astype(np.float32)


@pytest.fixture(scope="module")
def by_hand(pipeline):
    """Runs two images with samplers' own functions: some rows told one thing, the rest another.

    What a piece is told: (stop, prompts, shares [1, R, 8, 8] or None, scale, mask or None).
    """
    task, params, frozen = pipeline.task, pipeline._params, pipeline._frozen
    tokenize = pipeline._reader.rows

    def run(*pieces):
        indices = np.arange(2)
        keys = image_keys(SEED, indices)
        known = task.first_stage.encode_mode(frozen, IMAGE[None] / np.float32(127.5) - 1)
        rows = SAMPLERS["dpmpp_2m"](pipeline.start(RED, **SETTINGS).plan.levels)
        state, start = initial_state(initial_noise(SEED, indices, (8, 8, 2))), 0
        null = task.null_condition(params, frozen)
        for stop, prompts, shares, scale, mask in pieces:
            conditionings = [
                task.condition(params, frozen, tokenize([prompt] * 2)) for prompt in prompts
            ]
            weights = None if shares is None else np.repeat(shares, 2, axis=0)
            predict = regional(task.denoiser(params), conditionings, weights, null, scale)
            if mask is not None:
                predict = on_x0(predict, task.schedule, keep_known(known, 1 - mask[..., None]))
            state = advance(predict, state, rows, keys, start, stop)
            start = stop
        return np.asarray(task.first_stage.decode(frozen, state.z))

    return run


def halves(mask):
    return np.stack([1 - latent(mask), latent(mask)], axis=1)


def steered(pipeline, before, after):
    """Returns images of a run that is changed after CUT rows, and its count of programs."""
    generation = pipeline.start([RED, RED], **{**SETTINGS, **before})
    generation.advance(CUT)
    count = _programs(pipeline)
    generation.change(**after)
    generation.advance(1)
    return generation.images(), _programs(pipeline) - count


def _programs(pipeline):
    return sum(programs.advance._cache_size() for programs in pipeline._programs.values())


def test_prompt_and_scale(pipeline, by_hand):
    expected = by_hand((CUT, [RED], None, 2.0, None), (STEPS, [BLUE], None, 5.0, None))
    found, compiled = steered(pipeline, {}, {"prompts": [BLUE, BLUE], "guidance_scale": 5.0})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert compiled == 0
    same, _ = steered(pipeline, {}, {"prompts": [RED, RED], "guidance_scale": 2.0})
    np.testing.assert_array_equal(same, pipeline([RED, RED], **SETTINGS))


def test_guidance_may_be_turned_off(pipeline, by_hand):
    expected = by_hand((CUT, [RED], None, 5.0, None), (STEPS, [RED], None, 1.0, None))
    before = {"guidance_scale": 5.0, "guidance_interval": (0, 999), "guidance_rescale": 0.0}
    found, compiled = steered(pipeline, before, {"guidance_scale": 1.0})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert compiled == 0


def test_regions(pipeline, by_hand):
    first, then = halves(LEFT), halves(1 - LEFT)
    expected = by_hand((CUT, [RED, BLUE], first, 2.0, None), (STEPS, [RED, GREEN], then, 2.0, None))
    found, compiled = steered(
        pipeline, {"regions": [Region(BLUE, LEFT)]}, {"regions": [Region(GREEN, 1 - LEFT)]}
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert compiled == 0
    late, _ = steered(pipeline, {}, {"regions": [Region(GREEN, 1 - LEFT)]})
    expected = by_hand((CUT, [RED], None, 2.0, None), (STEPS, [RED, GREEN], then, 2.0, None))
    np.testing.assert_allclose(late, expected, rtol=0, atol=1e-4)


def test_mask(pipeline, by_hand):
    found, compiled = steered(pipeline, {"image": IMAGE, "mask": 0 * LEFT + 1}, {"mask": LEFT})
    assert compiled == 0
    mask = latent(LEFT)
    expected = by_hand((CUT, [RED], None, 2.0, 0 * mask + 1), (STEPS, [RED], None, 2.0, mask))
    painted = LEFT == 1
    # A run from an image starts with alpha_bar_T of an empty one, not with noise alone.
    np.testing.assert_allclose(found[:, painted], expected[:, painted], rtol=0, atol=1e-3)
    # The rest is the image, to the pixel.
    kept = np.broadcast_to(IMAGE[~painted] / np.float32(127.5) - 1, found[:, ~painted].shape)
    np.testing.assert_allclose(found[:, ~painted], kept, rtol=0, atol=1e-6)


def test_changes_add_up(pipeline, by_hand):
    generation = pipeline.start([RED, RED], **SETTINGS)
    generation.advance(CUT)
    generation.change(guidance_scale=5.0)
    generation.advance(2)
    generation.change(prompts=[BLUE, BLUE])
    expected = by_hand(
        (CUT, [RED], None, 2.0, None),
        (CUT + 2, [RED], None, 5.0, None),
        (STEPS, [BLUE], None, 5.0, None),
    )
    np.testing.assert_allclose(generation.images(), expected, rtol=0, atol=1e-4)


def test_a_wrong_change_is_named_and_changes_nothing(pipeline):
    generation = pipeline.start([RED, RED], **SETTINGS)
    generation.advance(CUT)
    for arguments, text in (
        ({"seed": 3}, "argument 'seed': unknown. Legal: prompts, classes, "),
        ({"steps": 3}, "argument 'steps': unknown"),
        ({"prompts": [BLUE]}, "change: got 1 prompts for 2 images. Legal: as many."),
        (
            {"guidance_scale": float("nan")},
            "guidance_scale=nan: legal is a finite number, or one per image.",
        ),
        ({"mask": LEFT}, "mask: has no effect without an image."),
        ({"classes": [1, 2]}, "classes: given, but this model's conditioner reads prompts."),
    ):
        with pytest.raises(UserError) as error:
            generation.change(**arguments)
        assert str(error.value).startswith(text)
    np.testing.assert_array_equal(generation.images(), pipeline([RED, RED], **SETTINGS))


def test_previews_are_of_the_predicted_image(pipeline):
    generation = pipeline.start([RED, RED], **SETTINGS)
    generation.advance(CUT)
    decode = jax.jit(pipeline.task.first_stage.decode)
    expected = decode(pipeline._frozen, np.asarray(generation._state.x0)[:2])
    np.testing.assert_allclose(generation.preview(), expected, rtol=0, atol=1e-5)
    images = generation.images()
    np.testing.assert_array_equal(generation.preview(), images)
    assert generation.latents().shape == (2, 8, 8, 2)


def test_guidance_goes_down_to_1_with_a_negative_prompt(pipeline):
    run = pipeline.start(RED, negative=BLUE, guidance_scale=3.0, steps=4)
    run.advance(1)
    run.change(guidance_scale=1.0)
    assert run.images().shape == (1, 16, 16, 3)


def test_a_run_that_is_done_cannot_be_steered(pipeline):
    run = pipeline.start(RED, steps=2)
    run.images()
    with pytest.raises(
        UserError, match=r"^change: the run is done\. Legal: before its last row\.$"
    ):
        run.change(prompts=[BLUE])
