"""The Python door: what `Pipeline` returns, repeats and refuses."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import SHAPES_VOCABULARY
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.checkpoint import read_config
from ldm_jax.train.loop import train

PROMPTS = [
    "a large red circle at the top left",
    "a small blue cross at the bottom right",
    "",
    "a large green square at the middle center",
]


@pytest.fixture(scope="module")
def pipeline(runs):
    return Pipeline.from_checkpoint(runs.text)


@pytest.fixture(scope="module")
def images(pipeline):
    return pipeline(PROMPTS, seed=5)


def test_images_have_the_training_size_and_repeat(pipeline, images):
    assert images.shape == (4, 16, 16, 3)
    assert images.dtype == np.uint8
    assert pipeline.step == 3
    np.testing.assert_array_equal(pipeline(PROMPTS, seed=5), images)
    assert not np.array_equal(pipeline(PROMPTS, seed=6), images)


def test_first_index_continues_a_list(pipeline, images):
    np.testing.assert_array_equal(pipeline(PROMPTS[2:], seed=5, first_index=2), images[2:])
    assert not np.array_equal(pipeline(PROMPTS[2:], seed=5), images[2:])


def test_an_image_depends_on_its_prompt_and_number(pipeline, images):
    swapped = pipeline([PROMPTS[0], PROMPTS[3], *PROMPTS[2:]], seed=5)
    assert not np.array_equal(swapped[1], images[1])
    np.testing.assert_array_equal(swapped[[0, 2, 3]], images[[0, 2, 3]])
    same = pipeline([PROMPTS[0]], num_images=4, seed=5)
    np.testing.assert_array_equal(same[0], images[0])
    assert not np.array_equal(same[1], same[0])


def test_progress_counts_images_over_several_buckets(pipeline):
    counts = []
    images = pipeline([PROMPTS[0]], num_images=11, progress=counts.append)  # buckets of 8
    assert len(images) == 11
    assert sum(counts) == 11


def test_other_sizes_and_both_kinds_of_parameters(runs, pipeline, images):
    assert pipeline(PROMPTS[:1], image_shape=(8, 24)).shape == (1, 8, 24, 3)
    raw = Pipeline.from_checkpoint(runs.text, ema=False)(PROMPTS, seed=5)
    assert raw.shape == images.shape
    assert not np.array_equal(raw, images)


def test_another_config_changes_how_images_are_drawn(runs, images):
    config = read_config(runs.text)
    config.sample.guidance_scale = 1.0
    without = Pipeline.from_checkpoint(runs.text, config=config)(PROMPTS, seed=5)
    assert not np.array_equal(without[0], images[0])


def test_a_class_model_reads_classes(runs):
    pipeline = Pipeline.from_checkpoint(runs.classes)
    images = pipeline(classes=[0, 23])
    assert images.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(pipeline(classes=[23], first_index=1), images[1:])
    for classes in ([24], [-1]):
        with pytest.raises(UserError, match=rf"^class {classes[0]}: legal is 0 to 23\.$"):
            pipeline(classes=classes)
    with pytest.raises(UserError, match=r"^prompts: given, but this model's conditioner reads cl"):
        pipeline(["a red circle"])


def test_mistakes_are_named(runs, pipeline):
    for call, message in (
        (lambda: pipeline(), r"^prompts: this model needs at least one\.$"),
        (lambda: pipeline([]), r"^prompts: this model needs at least one\.$"),
        (lambda: pipeline(classes=[1]), r"^classes: given, but this model's conditioner reads pr"),
        (
            lambda: pipeline(["a"], num_images=0),
            r"^num_images=0: legal is a whole number, 1 or more\.$",
        ),
        (lambda: pipeline(["a"], image_shape=(16, 17)), r"^image size 17: the model takes multi"),
        (lambda: Pipeline.from_checkpoint(runs.autoencoder), r"sampling needs latent_diffusion\.$"),
        (
            lambda: Pipeline.from_checkpoint(runs.text / "none"),
            r"no such file or folder\. Lega",
        ),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_hugging_face_tokenizer_trains_and_samples(runs, tmp_path):
    words = ["<pad>", "<unk>", *SHAPES_VOCABULARY, "<s>"]
    core = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    start = words.index("<s>")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>")
    fast.save_pretrained(tmp_path / "tokenizer")
    config = load_config(f"{__file__.removesuffix('test_pipeline.py')}tiny.py:text")
    apply_overrides(
        config,
        [
            "--config.data.tokenizer.name=huggingface",
            f"--config.data.tokenizer.path={tmp_path / 'tokenizer'}",
            "--config.data.tokenizer.length=12",
            f"--config.task.conditioner.vocab_size={len(words)}",
            f"--config.task.first_stage.workdir={runs.autoencoder}",
            "--config.train.steps=2",
            "--config.sample.grid_images=0",
        ],
    )
    assert int(train(config, tmp_path / "run").step) == 2
    pipeline = Pipeline.from_checkpoint(tmp_path / "run")
    # Guidance steers away from the tokenizer's own empty caption; the caller's config is untouched.
    assert pipeline.config.task.conditioner.null_tokens == (start, *[0] * 11)
    assert "null_tokens" not in config.task.conditioner
    images = pipeline(PROMPTS)
    assert images.shape == (4, 16, 16, 3)
    # Every unknown word is <unk>; a known one is not.
    mauve, taupe, red = (pipeline([f"a large {word} circle"]) for word in ("mauve", "taupe", "red"))
    np.testing.assert_array_equal(mauve, taupe)
    assert not np.array_equal(red, taupe)
