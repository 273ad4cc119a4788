"""The tasks whose conditions are not text or classes: trained a step or two, and drawn."""

import numpy as np
import pytest
from conftest import TINY

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import Shapes
from ldm_jax.pipeline import Pipeline
from ldm_jax.tasks.first_stage import FirstStage
from ldm_jax.train import assemble_data
from ldm_jax.train.checkpoint import read_config
from ldm_jax.train.data_refusal import refusal
from ldm_jax.train.loop import train

IMAGES = np.stack([Shapes(16, seed=3)[k]["image"] for k in range(2)])
LEFT = np.repeat(np.arange(16)[None, :] < 8, 16, axis=0)


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """Trains a tiny model once and returns its pipeline."""
    found = {}

    def pipeline(name):
        if name not in found:
            config = load_config(f"{TINY}:{name}")
            apply_overrides(config, [f"--config.task.first_stage.workdir={runs.autoencoder}"])
            workdir = tmp_path_factory.mktemp(name) / "run"
            train(config, workdir)
            assert len(list(workdir.glob("**/*.png"))) == 1  # a grid, of the tasks' own conditions
            found[name] = Pipeline.from_checkpoint(workdir)
        return found[name]

    return pipeline


@pytest.mark.parametrize(
    "name",
    [
        "layout",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("semantic", "super_resolution")),
    ],
)
def test_a_task_trains_and_draws_what_its_data_make(drawn, name):
    pipeline = drawn(name)
    (entry,) = pipeline.task.condition_entries
    config = pipeline.config
    source = Shapes(16, max_objects=2, seed=1)
    batch = assemble_data.build_examples(config, source, None, range(3), ("image", entry))
    images = pipeline(conditions={entry: batch[entry]}, seed=2)
    assert images.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(
        images[1:], pipeline(conditions={entry: batch[entry][1:]}, seed=2, first_index=1)
    )
    with pytest.raises(UserError, match=f"^conditions: this model's conditioner reads {entry}; go"):
        pipeline(conditions={"other": batch[entry]})


def test_inpainting_draws_the_hole_alone(drawn):
    pipeline = drawn("inpainting")
    images = pipeline(image=IMAGES, mask=LEFT, seed=1)
    np.testing.assert_array_equal(images[:, ~LEFT], IMAGES[:, ~LEFT])
    assert (images[:, LEFT] != IMAGES[:, LEFT]).any()
    # What is under the mask is not seen.
    hidden = IMAGES.copy()
    hidden[:, LEFT] = 200
    np.testing.assert_array_equal(pipeline(image=hidden, mask=LEFT, seed=1), images)


def test_the_masked_image_is_its_latent_and_the_mask(drawn):
    """By hand: encode the image with a grey-free hole, -1, and take every second mask pixel."""
    pipeline = drawn("inpainting")
    task, frozen = pipeline.task, pipeline._frozen
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[:, 3:11, 5:9] = 1
    given = task.condition(pipeline._params, frozen, {"image": IMAGES[:1], "mask": mask}).concat
    pixels = IMAGES[:1].astype(np.float32) / 127.5 - 1
    pixels[mask == 1] = -1
    z = np.asarray(task.first_stage.encode_mode(frozen, pixels))
    cells = np.where(mask[:, ::2, ::2] == 1, 1.0, -1.0)[..., None]
    np.testing.assert_allclose(given, np.concatenate([z, cells], axis=-1), atol=1e-5)
    same = task.condition(pipeline._params, frozen, {"masked_image": np.asarray(given)}).concat
    np.testing.assert_array_equal(same, given)


def test_reconstructions_are_the_first_stage_s(drawn):
    pipeline = drawn("inpainting")
    found = pipeline.reconstruct(IMAGES)
    stage, pixels = pipeline.task.first_stage, IMAGES.astype(np.float32) / 127.5 - 1
    by_hand = stage.decode(pipeline._frozen, stage.encode_mode(pipeline._frozen, pixels))
    expected = np.clip(np.asarray(by_hand) * 127.5 + 127.5, 0, 255)
    np.testing.assert_allclose(found, expected, atol=1.01)
    np.testing.assert_array_equal(pipeline.reconstruct(IMAGES[1]), found[1:])
    with pytest.raises(UserError, match=r"^images: got float32 of shape \(2, 16, 16, 3\)\. Legal"):
        pipeline.reconstruct(pixels)


def test_a_condition_that_the_data_lack_is_named_before_training(runs, tmp_path):
    config = load_config(f"{TINY}:inpainting")
    apply_overrides(config, [f"--config.task.first_stage.workdir={runs.autoencoder}"])
    with config.unlocked():
        del config.data["derive"]
    with pytest.raises(UserError, match=r"^data\.keys: got 'mask' for Shapes.*Legal: image, class"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_remembers_what_is_derived(drawn):
    workdir = drawn("layout").source
    assert read_config(workdir).data.derive.layout.num_objects == 2


def message(function, *args, **arguments):
    """Returns what is said of wrong arguments."""
    with pytest.raises(UserError) as error:
        function(*args, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_maps_of_labels_are_looked_at(drawn):
    pipeline = drawn("semantic")
    labels = np.random.default_rng(0).integers(0, 5, (1, 16, 16))

    def said(value, **arguments):
        return message(pipeline, conditions={"segmentation": value}, **arguments)

    what = "conditions['segmentation']: got "
    legal = "Legal: whole numbers [n, 16, 16], a row per image."
    assert said(labels + 196) == f"{what}196 to 200. Legal: 0 to 4."
    assert said(labels - 1) == f"{what}-1 to 3. Legal: 0 to 4."
    assert said(labels * 1.0) == f"{what}float64 of shape (1, 16, 16). {legal}"
    assert said(labels[0]) == f"{what}int64 of shape (16, 16). {legal}"
    assert said(labels[:0]) == f"{what}int64 of shape (0, 16, 16). {legal}"
    assert said(3) == f"{what}int64 of shape (). {legal}"
    assert said([[1], [1, 2]]) == f"{what}rows of several lengths. Legal: an array."
    assert said(labels, image_shape=(8, 24)) == (
        f"{what}int64 of shape (1, 16, 16). Legal: whole numbers [n, 8, 24], a row per image."
    )
    assert said(labels.repeat(2, 0), num_images=3) == (
        "conditions: got 2 rows for 3 images. Legal: 1 or 3."
    )
    three = pipeline(conditions={"segmentation": labels.astype(np.uint8)}, num_images=3, seed=1)
    rows = pipeline(conditions={"segmentation": labels.repeat(3, 0)}, seed=1)
    np.testing.assert_array_equal(three, rows)


@pytest.mark.slow
def test_guidance_at_another_size(drawn):
    given = {"segmentation": np.zeros((1, 8, 24), np.int32)}
    images = drawn("semantic")(conditions=given, image_shape=(8, 24), guidance_scale=2.0)
    assert images.shape == (1, 8, 24, 3)
    pipeline = drawn("super_resolution")
    given = {"low_res": np.zeros((1, 4, 12, 3))}
    images = pipeline(conditions=given, image_shape=(8, 24), guidance_scale=2.0)
    assert images.shape == (1, 8, 24, 3)
    given = {"low_res": np.full((1, 8, 8, 3), np.nan)}
    assert message(pipeline, conditions=given) == (
        "conditions['low_res']: holds a value that is not a finite number."
    )
    given = {"low_res": np.zeros((1, 8, 8, 3), np.uint8)}
    assert message(pipeline, conditions=given) == (
        "conditions['low_res']: got uint8 of shape (1, 8, 8, 3). Legal: floats [n, 8, 8, 3], a row "
        "per image."
    )


def test_tokens_of_a_layout_are_looked_at(drawn):
    pipeline, tokens = drawn("layout"), np.full((1, 8), 289)
    assert message(pipeline, conditions={"layout": tokens + 1}) == (
        "conditions['layout']: got 290 to 290. Legal: 0 to 289."
    )
    assert message(pipeline, conditions={"layout": tokens[:, :7] * 1.0}) == (
        "conditions['layout']: got float64 of shape (1, 7). Legal: whole numbers [n, 8], a row per "
        "image."
    )


def test_image_and_mask_mean_the_same_among_the_conditions(drawn):
    pipeline = drawn("inpainting")
    images = pipeline(image=IMAGES, mask=LEFT, seed=1)
    for mask in (LEFT, LEFT.astype(np.uint8), LEFT.astype(np.uint8) * 255, LEFT.astype(int)):
        given = {"image": IMAGES, "mask": mask}
        np.testing.assert_array_equal(pipeline(conditions=given, seed=1), images)
        np.testing.assert_array_equal(pipeline(**given, seed=1), images)
    given = {"image": IMAGES, "mask": LEFT}
    assert message(pipeline, conditions={**given, "mask": LEFT[:, :8]}) == (
        "mask: got shape (16, 8). Legal: [16, 16]."
    )
    assert message(pipeline, conditions={**given, "mask": LEFT[None][:0]}) == (
        "mask: got shape (0, 16, 16). Legal: [16, 16]."
    )
    assert message(pipeline, conditions=given, image=IMAGES) == (
        "conditions: has image, which is given too. Legal: one of both."
    )
    assert message(pipeline) == (
        "conditions: this model's conditioner reads masked_image; got nothing. Legal: image and "
        "mask, or masked_image itself, a row per image each."
    )


def test_a_large_masked_image_is_encoded_in_tiles(drawn, monkeypatch):
    seen, encode = [], FirstStage.encode_mode

    def spy(self, frozen, images, tile=None):
        seen.append(tile)
        return encode(self, frozen, images, tile)

    monkeypatch.setattr(FirstStage, "encode_mode", spy)
    large = IMAGES[0].repeat(2, axis=0).repeat(2, axis=1)
    mask = LEFT.repeat(2, axis=0).repeat(2, axis=1)
    images = drawn("inpainting")(image=large, mask=mask, tile=16, seed=1)
    assert images.shape == (1, 32, 32, 3)
    assert set(seen) == {16}


@pytest.mark.parametrize(
    ("name", "override", "text"),
    [
        (
            "layout",
            "task.conditioner.vocab_size=100",
            "config.data.derive.layout.vocab_size=290, but config.task.conditioner has 100. Legal: "
            "the same.",
        ),
        (
            "layout",
            "data.derive.layout.num_objects=3",
            "config.data.derive.layout: makes (11,), but config.task.conditioner reads (8,). "
            "Legal: as many.",
        ),
        (
            "super_resolution",
            "data.derive.low_res.factor=4",
            "config.data.derive.low_res: makes (4, 4, 3), but config.task.conditioner reads "
            "(8, 8, 3). Legal: as many.",
        ),
        (
            "semantic",
            "data.derive={'segmentation': {'name': 'layout', 'num_objects': 5}}",
            "config.data.derive.segmentation: makes (17,), but config.task.conditioner reads "
            "(16, 16). Legal: as many.",
        ),
    ],
)
def test_entries_that_do_not_fit_are_refused_before_anything_is_written(
    runs, tmp_path, name, override, text
):
    config = load_config(f"{TINY}:{name}")
    first_stage = f"--config.task.first_stage.workdir={runs.autoencoder}"
    if "{" in override:
        with config.unlocked():
            config.data.derive = {"segmentation": {"name": "layout", "num_objects": 5}}
        apply_overrides(config, [first_stage])
    else:
        apply_overrides(config, [first_stage, f"--config.{override}"])
    assert message(train, config, tmp_path / "run") == text
    assert not (tmp_path / "run").exists()
    assert refusal(config, Shapes(16, num_examples=8), 8) == text


def test_labels_beyond_the_table_stop_the_run(runs, tmp_path):
    config = load_config(f"{TINY}:semantic")
    apply_overrides(
        config,
        [
            f"--config.task.first_stage.workdir={runs.autoencoder}",
            "--config.task.conditioner.num_classes=2",
        ],
    )
    source = Shapes(16, num_examples=8)
    assert refusal(config, source, 8, {"segmentation": 3, "class": 9}) == (
        "data: the largest segmentation is 3, but the model has a table of 2. Legal: 0 to 1."
    )
    assert refusal(config, source, 8, {"segmentation": 1}).startswith("data: example ")
    said = message(train, config, tmp_path / "run")
    assert said.startswith("data: example ")
    assert said.endswith(", but the model has a table of 2. Legal: 0 to 1.")
    assert not (tmp_path / "run").exists()
