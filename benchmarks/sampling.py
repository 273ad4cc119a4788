"""ldm_jax beside PyTorch diffusers: one U-Net forward, and noise to images.

  python benchmarks/sampling.py --preset small --peers eager --out runs/benchmark

All contenders run in this process on one device with random weights, in turns, so that whatever
else the machine does hits them alike; medians with quartiles are reported. Memory on a CPU is that
of the whole process, hence printed only with `--peers none`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

WHAT = ("forward", "sample")


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Returns median and quartiles of seconds by name; in each round everybody runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # the first round warms up
        for name, run in runs.items():
            wall = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - wall)
    return {name: _spread(values) for name, values in seconds.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "quartile_1": ordered[last // 4],
        "quartile_3": ordered[last - last // 4],
        "repeats": len(ordered),
    }


def make_contenders(preset: Any, dtype: str, device: str, peers: Sequence[str]) -> list[Any]:
    """Returns ours and the peers of that names, 'eager' and 'compile'."""
    from ours import Ours

    contenders: list[Any] = [Ours(preset, dtype)]
    if peers:
        from peers import Diffusers

        contenders += [Diffusers(preset, dtype, device, peer == "compile") for peer in peers]
    return contenders


def measure(contenders: Sequence[Any], batch: int, repeats: int, what: Sequence[str]) -> list[dict]:
    """Returns one record per contender, of everything that was measured."""
    records = {c.name: {"name": c.name} for c in contenders}
    for part in what:
        for size in sorted({1, batch} if part == "sample" else {batch}):
            runs = {c.name: getattr(c, part)(size) for c in contenders}
            for name, seconds in interleaved(runs, repeats).items():
                records[name][f"{part}_batch_{size}_s"] = seconds
                if part == "sample" and size == batch:
                    records[name]["images_per_s"] = batch / seconds["median"]
    for c in contenders:
        alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = c.peak_bytes()
        records[c.name]["peak_device_bytes"] = peak
        records[c.name]["peak_process_bytes"] = alone if len(contenders) == 1 else None
        records[c.name]["compile_s"] = c.compile_s
    return list(records.values())


def markdown(records: Sequence[dict]) -> str:
    """Returns the records as a table, with the ratio of the speed to the first peer's."""
    columns = [key for key in records[0] if key.endswith("_s") and key != "compile_s"]
    head = ["contender", *(key[:-2].replace("_", " ") + ", s" for key in columns), "compile, s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    base = records[min(1, len(records) - 1)]
    for record in records:
        cells = [record["name"]]
        for key in columns:
            median = record[key]["median"]
            cells.append(f"{median:.4g} ({base[key]['median'] / median:.2f}x)")
        cells.append(f"{sum(record['compile_s'].values()):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def main() -> None:
    """Measures what the command line asks for; writes results.json and prints a table."""
    from presets import PRESETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peers", default="eager", help="of eager,compile; or none")
    parser.add_argument("--what", default=",".join(WHAT), help="of forward,sample")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # One device for both libraries; neither takes the GPU whole. Idle OpenMP threads sleep, for
    # spinning they would take the cores from the contender whose turn is next.
    os.environ["JAX_PLATFORMS"] = args.device
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    preset = PRESETS[args.preset]
    peers = [] if args.peers == "none" else args.peers.split(",")
    contenders = make_contenders(preset, args.dtype, args.device, peers)
    batch = args.batch or preset.batch
    records = measure(contenders, batch, args.repeats, args.what.split(","))
    options = {k: v for k, v in vars(args).items() if k != "out"} | {"batch": batch}
    report = {"options": options, **environment(), "records": records}
    table = markdown(records)
    print(table)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "results.json").write_text(json.dumps(report, indent=2) + "\n")
        (args.out / "table.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
