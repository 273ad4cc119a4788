"""`ldm-jax evaluate --workdir DIR --metrics fid,is,pr`."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from ldm_jax.cli import processes, sampling_flags
from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.numbers import whole
from ldm_jax.cli.progress import Progress

EXAMPLES = """\
  ldm-jax evaluate --config configs/faces.py --workdir runs/faces --metrics fid,is,pr \\
    --num_samples 50000
  ldm-jax evaluate --workdir runs/emoji --metrics fid,kid --num_samples 2000 --steps 50 \\
    --reference held_out --extractor classifier:emoji.safetensors
  ldm-jax evaluate --workdir runs/captions --metrics fid,clip --clip clip-vit-large-patch14/
  ldm-jax evaluate --workdir runs/faces --metrics bound --reference held_out --num_reference 1000
  ldm-jax evaluate --workdir runs/autoencoder --metrics rfid,psnr,ssim --reference held_out
The same call again goes on where it was stopped; of a finished one it reads the report. Image k
depends on the seed, on k and on its condition alone, so more samples later keep those before.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="of a diffusion model or a first stage")
    add("--config", metavar="FILE", help="of the run, for its data's places and its config.sample")
    add(
        "--metrics",
        metavar="A,B",
        type=_names,
        help="of fid, sfid, kid, is, pr, dc, clip, bound (default: fid); of first stages rfid, "
        "psnr, ssim, lpips (default: psnr,ssim)",
    )
    add(
        "--num_samples",
        metavar="N",
        type=whole(1),
        help="default: 50000; of first stages all images of the reference",
    )
    sampling_flags.add_arguments(parser)
    add(
        "--extractor",
        metavar="NAME[:PATH]",
        default="inception",
        help="of features: inception, classifier:FILE, clip:FOLDER, pixels (default: inception)",
    )
    add("--clip", metavar="DIR", help="folder of transformers with a CLIPModel, for clip")
    add(
        "--reference",
        metavar="SET",
        default="train",
        help="real images: train, held_out, or a folder (default: train)",
    )
    add("--split", metavar="NAME", help="of the data set, instead of the one that is trained on")
    add("--num_reference", metavar="N", type=whole(1), help="real images (default: all)")
    add(
        "--conditions",
        metavar="SET",
        help="whose captions or classes the samples have (default: the reference's own)",
    )
    add("--kid_size", metavar="N", type=whole(2), help="images of a subset (default: 1000)")
    add("--out", metavar="DIR", help="for features and reports (default: WORKDIR/evaluation)")
    add("--cache", metavar="DIR", help="for features of real images (default: that of --out)")
    add(
        "--per_device_batch",
        metavar="N",
        type=whole(1),
        default=32,
        help="images whose features a device computes at once (default: 32)",
    )
    add("--json", action="store_true", help="one JSON object, for programs")
    processes.add_arguments(parser)


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Measures what is not in a report yet, and prints the report."""
    config = _config(arguments, overrides)
    with processes.one_of_many(arguments, overrides):
        _evaluate(config, arguments)


def _evaluate(config: Any, arguments: argparse.Namespace) -> None:
    from ldm_jax.core.compilation_cache import keep_compiled_programs
    from ldm_jax.train.evaluate import evaluate
    from ldm_jax.train.evaluation_report import score_lines
    from ldm_jax.train.evaluation_request import Wanted
    from ldm_jax.train.preflight import check_folder

    out = arguments.out or Path(arguments.workdir).expanduser() / "evaluation"
    check_folder("--out", out)
    if arguments.cache:
        check_folder("--cache", arguments.cache)
    keep_compiled_programs()
    names = (
        *("metrics", "num_samples", "num_reference", "seed", "extractor", "clip", "reference"),
        *("split", "conditions", "kid_size"),
    )
    wanted = Wanted(ema=not arguments.raw, **{name: getattr(arguments, name) for name in names})
    first = processes.first_process(arguments)
    with contextlib.ExitStack() as stack:
        bars: dict[str, Progress] = {}

        def progress(what: str, count: int, total: int) -> None:
            if what not in bars:
                stack.close()  # the bar before it is full
                bars[what] = stack.enter_context(Progress(what, total, "image", shown=first))
            bars[what](count)

        path, report = evaluate(
            config,
            Path(arguments.workdir).expanduser(),
            wanted,
            out=out,
            cache=arguments.cache,
            per_device_batch=arguments.per_device_batch,
            progress=progress,
        )
    if not first:
        return
    if arguments.json:
        print(json.dumps(report))
        return
    print("\n".join(score_lines(report["scores"])))
    print(f"report: {path} and {path.with_suffix('.md').name}")


def _config(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    """Returns the run's configuration; where its data lie and `sample` may be others.

    Raises:
      UserError: a configuration of another run.
    """
    from ldm_jax.train import assemble, assemble_data
    from ldm_jax.train.checkpoint import check_same_run, read_config

    workdir = Path(arguments.workdir).expanduser()
    legal = ("sample.", "data.", "train.lpips_weights")
    sampling_flags.check_overrides("evaluate", overrides, legal)
    config = read_config(workdir).lock()
    if arguments.config:
        config = load_config(arguments.config)
    apply_overrides(config, [*sampling_flags.shortcuts(arguments), *overrides])
    if arguments.config:
        assemble_data.keep_text(config, assemble_data.build_tokenizer(config))
    check_same_run(workdir, config)
    if arguments.dtype is not None:
        assemble.set_dtype(config, arguments.dtype)
    return config


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
