"""First stages on held-out emoji: every f, KL and VQ, and what the perceptual losses give.

python experiments/first_stage/run.py --data EMOJI_DIR --workdir runs/first_stage
Trains each stage of configs/emoji_first_stage.py in turn, with the full recipe, and those of --l1
also with L1 alone. Writes results.json, table.md and reconstructions/ into --out; prints JSON last.
The same command again continues, and what is done is kept; seeds and stages of several calls go
into one table. --cpu takes the size that two cores train in about an hour.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import jax

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import UserError
from ldm_jax.train.hooks import EVALUATION_FILE, METRICS_FILE
from ldm_jax.train.loop import train

CONFIG = Path(__file__).parents[2] / "configs" / "emoji_first_stage.py"
STAGES = [f"{kind}_f{factor}" for kind in ("kl", "vq") for factor in (1, 2, 4, 8, 16, 32)]
COLUMNS = {
    "psnr": "{:.2f}",
    "ssim": "{:.3f}",
    "lpips": "{:.3f}",
    "code_usage": "{:.1%}",
    "code_perplexity": "{:.0f}",
    "seconds": "{:.0f}",
}


def main() -> None:
    """Trains what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of emoji")
    parser.add_argument("--workdir", default="runs/first_stage")
    parser.add_argument("--out", help="folder of the results, by default the workdir")
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES)
    parser.add_argument("--l1", nargs="*", default=["kl_f4", "vq_f4"], choices=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="32×32 pixels and small networks")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    workdir, out = Path(arguments.workdir), Path(arguments.out or arguments.workdir)
    if arguments.cpu and len(os.sched_getaffinity(0)) >= 2:
        # A batch split over two CPU devices keeps two cores busier than one device does.
        jax.config.update("jax_num_cpu_devices", 2)
    runs = [(stage, "l1") for stage in arguments.l1] + [
        (stage, "full") for stage in arguments.stages
    ]
    results = {}
    for stage, losses in runs:
        name = f"{stage}_{losses}_{arguments.seed}"
        config = make_config(stage, losses, arguments)
        results[name] = train_one(config, workdir / name)
        save_grid(workdir / name, config.train.steps, out / "reconstructions" / f"{name}.png")
    written = out / "results.json"
    known = json.loads(written.read_text()) if written.is_file() else {}
    written.write_text(json.dumps(known | results, indent=1) + "\n")
    (out / "table.md").write_text(make_table(known | results))
    print(json.dumps(results))


def make_config(stage: str, losses: str, arguments: argparse.Namespace):
    """Returns the configuration of one run."""
    config = load_config(f"{CONFIG}:{stage}")
    config.seed = arguments.seed
    config.data.source.path = arguments.data
    if arguments.cpu:
        config.data.image_size = 32
        config.task.model.update(channels=16, num_res_blocks=1)
        with config.unlocked():
            config.task.model.num_groups = 8
        config.task.discriminator.update(channels=32, num_layers=2)
        config.task.disc_start = 250
        config.train.update(steps=500, batch_size=8, learning_rate=2e-3, warmup_steps=20)
        config.train.update(ema_decay=0.98, log_every=10, checkpoint_every=250, sample_every=250)
        config.evaluation.every = 125
    if arguments.smoke:
        config.train.update(steps=4, checkpoint_every=4, batch_size=2, warmup_steps=1)
        config.task.disc_start, config.evaluation.every = 2, 4
        config.evaluation.update(images=8, batch_size=4)
        config.sample.grid_images = 2
    if losses == "l1":  # the same but for the two losses; the discriminator learns and is not heard
        config.task.update(perceptual_weight=0.0, disc_weight=0.0)
    return config


def train_one(config, workdir: Path) -> dict[str, float]:
    """Trains what is missing, and returns the last scores and the seconds of all its steps."""
    train(config, workdir)
    scores = read_rows(workdir / EVALUATION_FILE)[-1]
    seconds, before = 0.0, 0
    for row in read_rows(workdir / METRICS_FILE):
        seconds += (row["step"] - before) * config.train.batch_size / row["images_per_second"]
        before = row["step"]
    return {**scores, "seconds": round(seconds, 1)}


def read_rows(path: Path) -> list[dict[str, float]]:
    """Returns what a run logged, one object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_grid(workdir: Path, step: int, path: Path) -> None:
    """Keeps the last picture of inputs, reconstructions and differences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(workdir / "reconstructions" / f"{step:08d}.png", path)


def make_table(results: dict[str, dict[str, float]]) -> str:
    """Returns Markdown."""
    lines = ["| stage | losses | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in results.items():
        stage, losses, _ = name.rsplit("_", 2)
        cells = [form.format(row[key]) if key in row else "" for key, form in COLUMNS.items()]
        lines.append("| " + " | ".join([stage, losses, *cells]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from error
