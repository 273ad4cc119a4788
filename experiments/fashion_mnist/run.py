"""Class-conditional Fashion-MNIST: train both stages, sample with guidance, let a classifier judge.

python experiments/fashion_mnist/run.py --data TFDS_DIR --workdir runs/fashion_mnist
Prints JSON last; writes grid.png, curve.png and results.json into --out.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from classifier import train_classifier

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.pipeline import load_examples, make_stream
from ldm_jax.data.tfds_source import Tfds
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.hooks import image_grid, save_png
from ldm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"


def main() -> None:
    """Trains, samples, judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="TFDS directory that holds fashion_mnist")
    parser.add_argument("--workdir", default="runs/fashion_mnist")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per_class", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    workdir, out = Path(arguments.workdir), Path(arguments.out or arguments.workdir)
    start = time.monotonic()
    if (os.cpu_count() or 1) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)

    first_stage = load_config(str(CONFIGS / "fashion_mnist_autoencoder.py"))
    config = load_config(str(CONFIGS / "fashion_mnist_class.py"))
    for settings in (first_stage, config):
        settings.seed = arguments.seed
        settings.data.source.path = arguments.data
        if arguments.smoke:
            settings.train.update(steps=4, warmup_steps=1, checkpoint_every=4, batch_size=8)
            settings.sample.update(steps=2, grid_images=4, per_device_batch=4)
    config.task.first_stage.workdir = str(workdir / "autoencoder")
    train(first_stage, workdir / "autoencoder")
    train(config, workdir / "diffusion")
    trained = time.monotonic()

    predict, real_accuracy = judge(arguments.data, 10 if arguments.smoke else 1400)
    judged = time.monotonic()

    classes = np.repeat(np.arange(10), 2 if arguments.smoke else arguments.per_class)
    pipeline = Pipeline.from_checkpoint(workdir / "diffusion")
    with tqdm(total=len(classes), unit="image", desc="sample") as bar:
        images = pipeline(classes=classes.tolist(), seed=arguments.seed, progress=bar.update)
    named = predict(images)
    per_class = [float(np.mean(named[classes == k] == k)) for k in range(10)]
    results = {
        "requested_class_named": float(np.mean(named == classes)),
        "images": len(classes),
        "per_class": dict(
            zip(Tfds("fashion_mnist", arguments.data).class_names, per_class, strict=True)
        ),
        "classifier_accuracy_on_real_test_images": real_accuracy,
        "guidance_scale": config.sample.guidance_scale,
        "sampler": f"{config.sample.sampler.name}, {config.sample.steps} steps",
        "seed": arguments.seed,
        "steps": [first_stage.train.steps, config.train.steps],
        "training_seconds": round(trained - start, 1),
        "classifier_seconds": round(judged - trained, 1),
        "sampling_seconds": round(time.monotonic() - judged, 1),
        "total_seconds": round(time.monotonic() - start, 1),
    }
    columns = min(16, len(classes) // 10)
    rows = np.concatenate([images[classes == k][:columns] for k in range(10)])
    save_png(out / "grid.png", image_grid(rows, columns))
    draw_curve(workdir, out / "curve.png")
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


def judge(data: str, steps: int):
    """Returns a classifier trained on the real train split, and its accuracy on the test split."""
    train_split, test_split = Tfds("fashion_mnist", data), Tfds("fashion_mnist", data, "test")
    stream = make_stream(train_split, batch_size=128, image_size=32, channels=1)
    predict = train_classifier(stream, steps, seed=0)
    test = load_examples(test_split, range(len(test_split)), image_size=32, channels=1)
    return predict, float(np.mean(predict(test["image"]) == test["class"]))


def draw_curve(workdir: Path, path: Path) -> None:
    """Plots the loss of both stages, from what `train` wrote to metrics.jsonl."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for axis, stage in zip(axes, ("autoencoder", "diffusion"), strict=True):
        lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        axis.plot([row["step"] for row in rows], [row["loss"] for row in rows])
        axis.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).parent.name}: {error}")
