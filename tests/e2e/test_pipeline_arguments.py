"""What each argument of a call does to the images, and what is said of a wrong one."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import ImageGuide, Region, extend_canvas
from ldm_jax.pipeline.regions import region_weights
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import image_keys, sample
from ldm_jax.samplers.guidance import classifier_free

RED, BLUE = "a large red circle at the top left", "a small blue cross at the bottom right"
DRAW = np.random.default_rng(0)
IMAGE = DRAW.integers(0, 256, (16, 16, 3), dtype=np.uint8)
LEFT = np.repeat([np.arange(16) < 8], 16, axis=0).astype(np.float32)
# float32 images about [-1, 1], from other programs or batches
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def pipeline(vivid):
    return vivid["text"]


@pytest.fixture(scope="module")
def draw(pipeline):
    """Draws float32 images."""
    return lambda *args, **arguments: pipeline(*args, output="float32", **arguments)


@pytest.fixture(scope="module")
def classes(vivid):
    return vivid["classes"]


def differ(a, b):
    """Returns whether images differ by more than rounding, each of them."""
    return bool((np.abs(a - b).max(axis=(1, 2, 3)) > 1e-3).all())


def test_a_single_prompt_and_the_types_of_images(pipeline, draw):
    floats = draw(RED, seed=4)
    assert (floats.shape, floats.dtype) == ((1, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(floats, draw([RED], seed=4))
    expected = np.round((np.clip(floats, -1, 1) + 1) * 127.5)
    images = pipeline(RED, seed=4)
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images, expected, rtol=0, atol=1)  # halves may round either way


def test_each_image_may_have_its_own_seed_and_scale(draw):
    mixed = draw([RED, BLUE, RED], seed=[3, 3, 9], guidance_scale=[2.0, 5.0, 0.5])
    for k, (prompt, seed, scale) in enumerate(((RED, 3, 2.0), (BLUE, 3, 5.0), (RED, 9, 0.5))):
        alone = draw(prompt, seed=seed, first_index=k, guidance_scale=scale)
        np.testing.assert_allclose(mixed[k], alone[0], **CLOSE)
    # One prompt becomes as many images as there are seeds.
    seeds = draw(RED, seed=np.array([3, 4]))
    np.testing.assert_allclose(seeds[0], draw(RED, seed=3)[0], **CLOSE)
    assert differ(seeds[:1], seeds[1:])


def test_scale_1_is_the_condition_alone(draw):
    without = draw([RED, BLUE], guidance_scale=1.0)  # compiled without the second half
    # All the same but for image 1, so that both halves are there.
    np.testing.assert_allclose(draw([RED, BLUE], guidance_scale=[1.0, 3.0])[0], without[0], **CLOSE)
    assert differ(draw([RED, BLUE], guidance_scale=3.0), without)


def test_a_negative_prompt_stands_in_for_the_empty_caption(draw, classes):
    plain, steered = draw([RED, RED], guidance_scale=4.0), draw(RED, num_images=2, negative=BLUE)
    assert differ(plain, steered)
    # A vocabulary's empty caption is the null condition.
    np.testing.assert_allclose(draw([RED, RED], guidance_scale=4.0, negative=""), plain, **CLOSE)
    each = draw([RED, RED], guidance_scale=4.0, negative=["", BLUE])
    np.testing.assert_allclose(each[0], plain[0], **CLOSE)
    assert differ(each[1:], plain[1:])
    # With the prompt itself there is nothing to go away from.
    itself = draw(RED, negative=RED, guidance_scale=7.0)
    np.testing.assert_allclose(itself, draw(RED, guidance_scale=1.0), rtol=0, atol=1e-4)
    numbers = classes(classes=[3, 3], negative=[5, 7], output="float32")
    assert differ(numbers, classes(classes=[3, 3], output="float32"))
    assert classes(classes=np.int64(3), negative=np.int64(5)).shape == (1, 16, 16, 3)


def test_a_region_everywhere_is_its_prompt(draw):
    whole = np.ones((16, 16))
    regional = draw([RED, RED], regions=[Region(BLUE, whole), Region(RED, 0 * whole)])
    np.testing.assert_allclose(regional, draw([BLUE, BLUE]), rtol=0, atol=1e-5 * 4)
    nowhere = draw([RED, RED], regions=[Region(BLUE, 0 * whole), Region(BLUE, 0 * whole)])
    np.testing.assert_allclose(nowhere, draw([RED, RED]), rtol=0, atol=1e-5 * 4)
    half = draw([RED, RED], regions=[Region(BLUE, LEFT)])
    assert differ(half, draw([BLUE, BLUE]))
    assert differ(half, draw([RED, RED]))


def test_shares_of_regions():
    a, b = DRAW.uniform(size=(2, 4, 6))
    found = region_weights([Region("a", a), Region("b", b)], 3, (4, 6), (2, 3))
    assert found.shape == (3, 3, 2, 3)
    cells = [m.reshape(2, 2, 3, 2).mean((1, 3)) for m in (a, b)]
    total = np.maximum(cells[0] + cells[1], 1)
    for k, cell in enumerate(cells):
        np.testing.assert_allclose(found[2, 1 + k], cell / total, rtol=1e-5)
    rest = np.maximum(1 - cells[0] - cells[1], 0)
    np.testing.assert_allclose(found[0, 0], rest, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_an_image_is_noised_to_its_level_and_drawn_from_there(pipeline, draw):
    generation = pipeline.start(RED, image=IMAGE, strength=0.5, steps=6, guidance_scale=1.0)
    assert generation.total == 3
    task, params, frozen = pipeline.task, pipeline._params, pipeline._frozen
    levels = generation.plan.levels

    @jax.jit
    def by_hand(tokens, noise):
        known = task.first_stage.encode_mode(frozen, IMAGE[None] / np.float32(127.5) - 1)
        signal, deviation = np.float32(levels.signal[0]), np.float32(levels.noise[0])
        conditioning = task.condition(params, frozen, {"tokens": tokens})
        predict = classifier_free(task.denoiser(params), conditioning, None, 1.0)
        rows = SAMPLERS["ddim"](levels)
        z = sample(predict, signal * known + deviation * noise, rows, image_keys(0, np.arange(1)))
        return task.first_stage.decode(frozen, z)

    noise = DRAW.standard_normal((1, 8, 8, 2)).astype(np.float32)
    arguments = {"image": IMAGE, "strength": 0.5, "steps": 6, "guidance_scale": 1.0}
    found = draw(RED, latents=noise, **arguments)
    expected = by_hand(generation.request.inputs["tokens"][:1], noise)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_less_strength_the_nearer_the_image(pipeline, draw):
    images = np.stack([IMAGE, IMAGE[::-1]])
    encode, decode = pipeline.task.first_stage.encode_mode, pipeline.task.first_stage.decode
    pixels = images.astype(np.float32) / 127.5 - 1
    kept = np.asarray(decode(pipeline._frozen, encode(pipeline._frozen, pixels)))
    errors = []
    for strength in (0.02, 0.3, 1.0):
        found = draw(RED, image=images, strength=strength, steps=50)
        assert len(found) == 2
        errors.append(np.abs(found - kept).mean((1, 2, 3)))
    assert (errors[0] < errors[1]).all()
    assert (errors[1] < errors[2]).all()
    # Whole strength with a mask of everything: nothing of the image is left.
    full = np.ones((16, 16))
    masked = [draw(RED, image=image, mask=full, steps=4) for image in images]
    np.testing.assert_array_equal(masked[0], masked[1])


@pytest.mark.parametrize(
    "extra", [{}, {"resample": 2, "jump": 2}, {"sampler": "dpmpp_2m"}], ids=str
)
@pytest.mark.parametrize(
    "mask", [LEFT, LEFT > 0, (LEFT * 255).astype(np.uint8)], ids=lambda m: m.dtype
)
def test_what_is_not_painted_over_stays_to_the_pixel(pipeline, draw, mask, extra):
    images = pipeline([RED, BLUE], image=IMAGE, mask=mask, steps=4, **extra)
    known = LEFT == 0
    for image in images:
        np.testing.assert_array_equal(image[known], IMAGE[known])
        assert (image[~known] != IMAGE[~known]).any()
    floats = draw([RED, BLUE], image=IMAGE, mask=mask, steps=4, **extra)
    expected = np.broadcast_to(IMAGE[known] / np.float32(127.5) - 1, floats[:, known].shape)
    np.testing.assert_allclose(floats[:, known], expected, rtol=0, atol=1e-6)


def test_outpainting(pipeline):
    canvas, mask = extend_canvas(IMAGE, (0, 4, 8, 0))
    assert (canvas.shape, mask.shape) == ((20, 24, 3), (20, 24))
    assert mask.sum() == 20 * 24 - 16 * 16
    np.testing.assert_array_equal(canvas[16:, 8:], np.repeat(IMAGE[15:], 4, axis=0))
    (image,) = pipeline(RED, image=canvas, mask=mask)
    np.testing.assert_array_equal(image[:16, 8:], IMAGE)
    with pytest.raises(UserError) as error:
        extend_canvas(IMAGE, (0, 4, -8, 0))
    assert str(error.value) == (
        "borders=(0, 4, -8, 0): legal are four numbers of pixels, 0 or more."
    )


def test_variations_lie_between_two_seeds(draw):
    own, other = (draw([RED, BLUE], seed=seed) for seed in (1, 2))
    ends = draw([RED, BLUE], seed=1, variation_seed=2, variation_weight=[0.0, 1.0])
    np.testing.assert_allclose(ends[0], own[0], **CLOSE)
    np.testing.assert_allclose(ends[1], other[1], **CLOSE)
    between = draw([RED, BLUE], seed=1, variation_seed=2, variation_weight=0.5)
    assert differ(between, own)
    assert differ(between, other)


def test_prompts_are_interpolated(draw, classes):
    ends = draw([RED, RED], toward=BLUE, toward_weight=[0.0, 1.0])
    expected = draw([RED, BLUE])
    np.testing.assert_allclose(ends, expected, **CLOSE)
    between = draw([RED, RED], toward=[BLUE, BLUE], toward_weight=0.5)
    assert differ(between, draw([RED, RED]))
    assert differ(between, draw([BLUE, BLUE]))
    end = classes(classes=3, toward=7, toward_weight=1.0, output="float32")
    np.testing.assert_allclose(end, classes(classes=7, output="float32"), **CLOSE)


def test_windows_and_tiles(draw):
    whole = draw(RED, image_shape=(16, 32))
    tiled = draw(RED, image_shape=(16, 32), tile=16)
    windowed = draw(RED, image_shape=(16, 32), window=(16, 16), overlap=8)
    assert whole.shape == tiled.shape == windowed.shape == (1, 16, 32, 3)
    for found in (tiled, windowed):
        assert np.isfinite(found).all()
        assert differ(found, whole)  # each window knows less
    assert np.abs(tiled - whole).mean() < 0.5 * whole.std()
    # Windows that hold the whole image change nothing.
    small = draw(RED)
    np.testing.assert_allclose(draw(RED, window=(16, 16)), small, **CLOSE)
    np.testing.assert_array_equal(draw(RED, tile=16), small)


def test_intervals_rescaling_and_thresholds(pipeline, draw):
    plain, single = draw(RED, guidance_scale=5.0, steps=4), draw(RED, guidance_scale=1.0, steps=4)
    strong = {"guidance_scale": 5.0, "steps": 4}
    everywhere = draw(RED, guidance_interval=(0, 999), **strong)
    np.testing.assert_allclose(everywhere, plain, **CLOSE)
    nowhere = draw(RED, guidance_interval=(0.5, 0.6), **strong)
    np.testing.assert_allclose(nowhere, single, rtol=0, atol=1e-4)
    np.testing.assert_allclose(draw(RED, guidance_rescale=0.0, **strong), plain, rtol=0, atol=1e-4)
    assert differ(draw(RED, guidance_rescale=0.7, **strong), plain)
    loose = draw(RED, threshold=(100, 1e6), **strong)
    np.testing.assert_allclose(loose, plain, rtol=0, atol=1e-4)
    generation = pipeline.start([RED, BLUE], threshold=(90, 0.5), **strong)
    generation.advance()
    assert np.abs(generation.latents()).max() <= 0.5 + 1e-6


def test_a_guide_of_images_pulls_them(pipeline, draw):
    def darkness(images, inputs):
        return inputs["weight"] * (images + 1).mean(axis=(1, 2, 3)) * 100

    guide = ImageGuide(pipeline.task.schedule, darkness)

    def guided(scale, weight):
        inputs = {"scale": [scale] * 2, "weight": np.full(2, weight, np.float32)}
        return draw([RED, BLUE], guide=guide, guide_inputs=inputs, steps=4)

    plain = draw([RED, BLUE], steps=4)
    np.testing.assert_allclose(guided(0.0, 1.0), plain, rtol=0, atol=1e-4)
    dark, light = guided(1.0, 1.0), guided(1.0, -1.0)
    assert (dark.mean((1, 2, 3)) < plain.mean((1, 2, 3))).all()
    assert (light.mean((1, 2, 3)) > plain.mean((1, 2, 3))).all()
    with pytest.raises(UserError) as error:
        draw([RED, BLUE], guide=guide, guide_inputs={"scale": [1.0]})
    assert str(error.value) == ("guide_inputs: got shape (1,) for 2 images. Legal: a row for each.")


def test_inversion_finds_the_noise_again(pipeline, draw):
    image = pipeline(RED, seed=3, steps=20)[0]
    first_stage, frozen = pipeline.task.first_stage, pipeline._frozen
    pixels = image[None].astype(np.float32) / 127.5 - 1
    goal = np.asarray(first_stage.decode(frozen, first_stage.encode_mode(frozen, pixels)))
    noise = pipeline.invert(image, RED, steps=100)
    assert noise.shape == (1, 8, 8, 2)
    again = draw(RED, latents=noise, sampler="ddim", steps=100, guidance_scale=1.0)
    psnr = 10 * np.log10(4 / np.square(again - goal).mean())
    assert psnr >= 30
    other = draw(BLUE, latents=noise, sampler="ddim", steps=100, guidance_scale=1.0)
    assert differ(other, again)


def test_the_callback_sees_and_steers_each_piece(pipeline):
    seen = []

    def callback(generation):
        seen.append((generation.row, generation.total, generation.done))
        assert generation.preview().shape == (generation.count, 16, 16, 3)

    calls = {"seed": 1, "steps": 7}
    images = pipeline([RED] * 9, callback=callback, callback_every=3, **calls)  # buckets of 8
    assert seen == [(3, 7, False), (6, 7, False)] * 2  # between the pieces
    np.testing.assert_array_equal(images, pipeline([RED] * 9, **calls))


def test_a_callback_may_steer_every_bucket(draw):
    calls = {"seed": 1, "steps": 7}
    changed = draw(
        [RED] * 9,
        callback=lambda generation: generation.change(prompts=[BLUE] * 9),
        callback_every=1,
        **calls,
    )
    assert differ(changed, draw([RED] * 9, **calls))
    assert differ(changed, draw([BLUE] * 9, **calls))  # the first row was the other prompt's


# Arguments of the wrong kind, each refused by name before anything runs.
KINDS = {
    "num_images": [2.5, "3", 0, True],
    "first_index": [2**31, 1.5, -1],
    "steps": ["5", 2.5, True],
    "resample": [2.5, "a"],
    "overlap": ["a", -1],
    "tile": ["a", 16.0],
    "image_shape": [32, (32,), "32x32", (32.0, 32.0)],
    "window": [32, (32,), (16.0, 16.0)],
    "seed": ["a", 1.5, [], [[1]]],
    "guidance_scale": ["x", float("nan"), [[1.0]]],
    "guidance_rescale": ["x"],
    "guidance_interval": [0.5, ("a", "b"), (1,)],
    "threshold": [99.5, (99,), ("a", 1)],
    "strength": ["x"],
    "sampler": [5, {"eta": 1.0}],
    "spacing": [3],
    "quantize": [1],
    "regions": [5, [("dog", LEFT)], Region("b", LEFT)],
    "image": ["a.png", 5],
    "mask": ["x"],
    "latents": [3],
    "guide": [5],
    "conditions": [5],
}


@pytest.mark.parametrize("name", KINDS)
def test_arguments_of_the_wrong_kind(pipeline, name):
    for value in KINDS[name]:
        with pytest.raises(UserError, match=rf"^{name}=.*: legal is "):
            pipeline.stream(RED, **{name: value})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"overlap": 2}, "overlap: has no effect without a window."),
        ({"jump": 2}, "jump: has no effect without a resample."),
        ({"variation_weight": 0.5}, "variation_weight: has no effect without a variation_seed."),
        ({"toward_weight": 0.5}, "toward_weight: has no effect without a toward."),
        ({"guide_inputs": {}}, "guide_inputs: has no effect without a guide."),
        (
            {"guidance_interval": (0, 9), "guidance_scale": 1.0},
            "guidance_interval: has no effect without guidance.",
        ),
        ({"conditions": {"low_res": IMAGE}}, "conditions: given, but this model's conditioner"),
        (
            {"latents": np.full((1, 8, 8, 2), np.nan)},
            "latents: hold a value that is not a finite number.",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(pipeline, arguments, text):
    with pytest.raises(UserError) as error:
        pipeline.stream(RED, **arguments)
    assert str(error.value).startswith(text)


def test_one_value_in_a_list_serves_all_images(pipeline):
    images = pipeline([RED] * 3, seed=[5], steps=1)
    np.testing.assert_array_equal(images, pipeline([RED] * 3, seed=5, steps=1))
    assert len(pipeline(RED, guidance_scale=[1.0, 2.0, 3.0], steps=1)) == 3


WRONG = [
    ({"negatve": "a"}, "argument 'negatve': unknown; did you mean 'negative'? Legal: classes, "),
    ({"sampler": "ddmi"}, "config.sample.sampler.name: got 'ddmi'; did you mean 'ddpm'? Legal: "),
    ({"spacing": "even"}, "spacing: got 'even'. Legal: trailing, leading, "),
    ({"steps": 0}, "steps=0: legal is a whole number, 1 or more."),
    ({"steps": 1001}, "num_steps: got 1001. Legal: 1 to 1000."),
    ({"output": "png"}, "output: got 'png'. Legal: uint8, float32."),
    ({"seed": -1}, "seed=-1: legal is a whole number from 0 to 2^32 - 1, or one per image."),
    ({"seed": [1, 2, 3], "num_images": 2}, "seed: got shape (3,) for 2 images. Legal: 1 or 2."),
    (
        {"variation_seed": 2**32},
        "variation_seed=4294967296: legal is a whole number from 0 to 2^32 - 1, or one per image.",
    ),
    (
        {"variation_seed": 1, "variation_weight": 1.5},
        "variation_weight: got 1.5. Legal: 0 to 1.",
    ),
    ({"toward": "b", "toward_weight": -0.5}, "toward_weight: got -0.5. Legal: 0 to 1."),
    ({"toward": ["b", "c"], "num_images": 3}, "toward: got 2 for 3 images. Legal: 1 or 3."),
    ({"toward": 3}, "prompt 3: this model reads text."),
    (
        {"guidance_scale": [1.0, 2.0], "num_images": 3},
        "guidance_scale: got shape (2,) for 3 images. Legal: 1 or 3.",
    ),
    (
        {"guidance_scale": float("inf")},
        "guidance_scale=inf: legal is a finite number, or one per image.",
    ),
    ({"guidance_rescale": 2.0}, "guidance_rescale: got 2.0. Legal: 0 to 1."),
    (
        {"guidance_interval": (500, 100)},
        "guidance_interval=(500, 100): legal are two timesteps, the smaller first.",
    ),
    ({"threshold": (101, 1.0)}, "threshold percentile: got 101. Legal: 0 to 100."),
    ({"threshold": (99, 0.0)}, "threshold limit: got 0.0. Legal: a positive number."),
    (
        {"negative": "b", "guidance_scale": 1.0},
        "negative: has no effect without guidance. Legal: a guidance_scale other than 1.",
    ),
    ({"negative": ["b", "c"], "num_images": 3}, "negative: got 2 for 3 images. Legal: 1 or 3."),
    ({"mask": LEFT}, "mask: has no effect without an image."),
    ({"strength": 0.5}, "strength: has no effect without an image."),
    ({"image": IMAGE, "strength": 0.0}, "strength=0.0: legal is above 0, up to 1."),
    (
        {"image": IMAGE, "resample": 2},
        "resample: has no effect without a mask.",
    ),
    (
        {"image": IMAGE, "mask": LEFT, "resample": 2, "sampler": "plms", "steps": 4},
        "resample=2: the sampler remembers earlier steps. Legal: ddpm, ddim, euler, euler_ance",
    ),
    (
        {"image": IMAGE / 255},
        "image: got float64 of shape (16, 16, 3). Legal: uint8 [16, 16, 3], or several of them.",
    ),
    (
        {"image": IMAGE, "image_shape": (8, 8)},
        "image: got uint8 of shape (16, 16, 3). Legal: uint8 [8, 8, 3], or several of them.",
    ),
    ({"image": IMAGE[:15]}, "image size 15: the model takes multiples of 2 pixels. Legal: 2, 4"),
    ({"image": IMAGE, "mask": LEFT[:8]}, "mask: got shape (8, 16). Legal: [16, 16]."),
    (
        {"image": IMAGE, "mask": LEFT * 2},
        "mask: got values outside of 0 to 1. Legal: bool, uint8, 0.0 to 1.0.",
    ),
    (
        {"image": np.stack([IMAGE] * 2), "num_images": 3},
        "image, mask: got 2 for 3 images. Legal: 1 or 3.",
    ),
    (
        {"latents": np.zeros((1, 4, 4, 2))},
        "latents: got shape (1, 4, 4, 2), expected (1, 8, 8, 2).",
    ),
    (
        {"regions": [Region("b", LEFT[:8])]},
        "regions[0].mask: got shape (8, 16), values 0.0 to 1.0. Legal: (16, 16), 0 to 1.",
    ),
    ({"quantize": True}, "quantize: this model's first stage has no codebook. Legal: False."),
    ({"window": (16, 15)}, "image size 15: the model takes multiples of 2 pixels. Legal: 2, 4"),
    (
        {"window": (8, 8), "overlap": 3},
        "overlap=3: legal are multiples of 2 pixels, from 0 to 6.",
    ),
    (
        {"window": (16, 8), "overlap": 8},
        "overlap=8: legal are multiples of 2 pixels, from 0 to 6.",
    ),
    ({"tile": 12}, "tile=12: legal are multiples of 8 pixels, or none."),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
def test_wrong_arguments_take_one_line_before_anything_runs(pipeline, arguments, text):
    with pytest.raises(UserError) as error:
        pipeline.stream("a", **arguments)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_wrong_uses_of_a_run(pipeline):
    with pytest.raises(UserError) as error:
        pipeline.start("a", num_images=9)
    assert str(error.value) == (
        "start: got more images than one bucket holds. Legal: up to 8, or a larger "
        "config.sample.per_device_batch."
    )
    with pytest.raises(
        UserError, match=r"^callback_every=0: legal is a whole number, 1 or more\.$"
    ):
        pipeline("a", callback=print, callback_every=0)
    with pytest.raises(UserError, match=r"^argument 'mask': unknown\. Legal: classes, "):
        pipeline.invert(IMAGE, "a", mask=LEFT)
    with pytest.raises(UserError, match=r"^refinements=-1: legal is a whole number, 0 or more\.$"):
        pipeline.invert(IMAGE, "a", refinements=-1)


def test_the_package_offers_it_without_loading_it():
    code = (
        "import sys, ldm_jax; assert 'jax' not in sys.modules; "
        "from ldm_jax.pipeline import Pipeline; assert ldm_jax.Pipeline is Pipeline; "
        "assert not hasattr(ldm_jax, 'Pipelin')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
