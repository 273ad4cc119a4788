"""The tasks whose conditions are not text or classes: trained a step or two, and drawn."""

import numpy as np
import pytest
from conftest import TINY

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import Shapes
from ldm_jax.pipeline import Pipeline
from ldm_jax.train import assemble
from ldm_jax.train.checkpoint import read_config
from ldm_jax.train.loop import train

pytestmark = pytest.mark.usefixtures("quick")

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


@pytest.mark.parametrize("name", ["layout", "semantic", "super_resolution"])
def test_a_task_trains_and_draws_what_its_data_make(drawn, name):
    pipeline = drawn(name)
    (entry,) = pipeline.task.condition_entries
    config = pipeline.config
    source = Shapes(16, max_objects=2, seed=1)
    batch = assemble.build_examples(config, source, None, range(3), ("image", entry))
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
    with pytest.raises(UserError, match=r"^config\.task\.conditioner reads 'mask', which the data"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_remembers_what_is_derived(drawn):
    workdir = drawn("layout").source
    assert read_config(workdir).data.derive.layout.num_objects == 2
