"""Timing in turns, what it was timed on, and the flags and files of every comparison."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Returns median and quartiles of seconds by name; in each round everybody runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # the first round warms up
        for name, run in runs.items():
            wall = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - wall)
    return {name: spread(values) for name, values in seconds.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, quartiles and number of values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "quartile_1": ordered[last // 4],
        "quartile_3": ordered[last - last // 4],
        "repeats": len(ordered),
    }


def one_device(device: str) -> None:
    """Sets up the process, before JAX and PyTorch are imported, so that both share one device.

    Neither takes a GPU whole. Idle OpenMP threads sleep, for spinning they would take the cores
    from the contender whose turn is next.
    """
    os.environ["JAX_PLATFORMS"] = device
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def environment() -> dict[str, Any]:
    """Returns hardware and versions."""
    import jax

    versions = {}
    for package in ("jax", "jaxlib", "flax", "torch", "diffusers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions,
    }


def comparison_flags(
    about: str | None, presets: Collection[str], default: str
) -> argparse.ArgumentParser:
    """Returns a parser of the flags of every comparison.

    Args:
      about: the help text.
      presets: names of what is compared.
      default: one of them.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--preset", choices=list(presets), default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peers", default="eager", type=_peers, help="of eager,compile; or none")
    parser.add_argument("--batch", type=int, help="images at once; default by preset")
    parser.add_argument("--repeats", type=int, default=11, help="turns of each contender")
    parser.add_argument("--out", type=Path, help="folder for results.json and table.md")
    return parser


def _peers(text: str) -> list[str]:
    """Returns ['eager', 'compile'] for 'eager,compile', and [] for 'none'."""
    peers = [] if text == "none" else text.split(",")
    if not set(peers) <= {"eager", "compile"}:
        raise argparse.ArgumentTypeError(f"{text}; legal: none, or of eager,compile")
    return peers


def report(
    args: argparse.Namespace, more: Mapping[str, Any], table: str, results: Mapping[str, Any]
) -> None:
    """Prints the table; with --out, writes it and the results, with what they were taken on.

    Args:
      args: the command line.
      more: options that it left open.
      table: Markdown.
      results: entries of results.json.
    """
    print(table)
    if args.out:
        options = {**{k: v for k, v in vars(args).items() if k != "out"}, **more}
        record = {"options": options, **environment(), **results}
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(record, indent=2) + "\n")
        (args.out / "table.md").write_text(table + "\n")
