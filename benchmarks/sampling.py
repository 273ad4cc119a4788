"""ldm_jax beside PyTorch diffusers: one U-Net forward, and noise to images.

  python benchmarks/sampling.py --preset small --peers eager --out runs/benchmark

All contenders run in this process on one device with random weights, in turns, so that whatever
else the machine does hits them alike; medians with quartiles are reported. Memory on a CPU is that
of the whole process, hence printed only with `--peers none`.
"""

import resource
from collections.abc import Sequence
from typing import Any

from rounds import comparison_flags, interleaved, one_device, report

WHAT = ("forward", "sample")


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
    columns = [key for key in records[0] if "_batch_" in key]
    head = ["contender", *(key[:-2].replace("_", " ") + ", s" for key in columns), "compile, s"]
    head += ["images/s", "peak memory, GiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    base = records[min(1, len(records) - 1)]
    for record in records:
        cells = [record["name"]]
        for key in columns:
            median = record[key]["median"]
            cells.append(f"{median:.4g} ({base[key]['median'] / median:.2f}x)")
        cells.append(f"{sum(record['compile_s'].values()):.1f}")
        cells.append(f"{record['images_per_s']:.2f}" if "images_per_s" in record else "")
        peak = record["peak_device_bytes"] or record["peak_process_bytes"]
        cells.append(f"{peak / 2**30:.2f}" if peak else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures what the command line asks for; writes results.json and prints a table."""
    from presets import PRESETS

    parser = comparison_flags(__doc__, PRESETS, "small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--what", default=",".join(WHAT), help="of forward,sample")
    args = parser.parse_args()
    one_device(args.device)
    preset = PRESETS[args.preset]
    contenders = make_contenders(preset, args.dtype, args.device, args.peers)
    batch = args.batch or preset.batch
    records = measure(contenders, batch, args.repeats, args.what.split(","))
    report(args, {"batch": batch}, markdown(records), {"records": records})


if __name__ == "__main__":
    main()
