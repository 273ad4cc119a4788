"""ldm_jax beside PyTorch diffusers: updates of a U-Net in training.

  python benchmarks/training.py --preset cpu --peers eager --out runs/benchmark

All contenders run in this process on one device and take turns, so that whatever else the machine
does hits them alike; medians with quartiles are reported. Latents and contexts are random and lie
on the device: what is measured is noise, loss, gradients, AdamW and the moving average. MFU is the
share of the rate of matrix products that was measured in the same run.
"""

import ast
import resource
from collections.abc import Mapping, Sequence
from typing import Any

from rounds import comparison_flags, interleaved, one_device, report

MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}


def make_contenders(
    preset: Any,
    dtype: str,
    device: str,
    batch: int,
    peers: Sequence[str],
    settings: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Returns ours and the peers of that names, 'eager' and 'compile', ready to train."""
    from ours_training import OursTraining

    contenders: list[Any] = [OursTraining(preset, dtype, batch, settings)]
    if peers:
        from peers_training import DiffusersTraining

        contenders += [
            DiffusersTraining(preset, dtype, batch, device, peer == "compile") for peer in peers
        ]
    return contenders


def matmul_peak(device: str, dtype: str, with_torch: bool, size: int | None = None) -> float:
    """Returns the best measured rate of a large matrix product, by either library."""
    from ours_training import matmul_flops_per_s

    size = size or MATMUL_SIZE[device]
    rates = [matmul_flops_per_s(size, dtype)]
    if with_torch:
        from peers_training import matmul_flops_per_s as by_torch

        rates.append(by_torch(size, dtype, device))
    return max(rates)


def measure(
    contenders: Sequence[Any], batch: int, steps: int, repeats: int, peak: float
) -> list[dict[str, Any]]:
    """Returns one record per contender; the FLOPs of an update are ours for all of them.

    Args:
      contenders: of `make_contenders`.
      batch: images per update.
      steps: updates per turn.
      repeats: turns of each.
      peak: FLOP/s of matrix products.
    """
    seconds = interleaved({c.name: c.steps(steps) for c in contenders}, repeats)
    ours, records = contenders[0], []
    for c in contenders:
        update = {k: v if k == "repeats" else v / steps for k, v in seconds[c.name].items()}
        alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        records.append(
            {
                "name": c.name,
                "parameters": c.parameters,
                "update_s": update,
                "images_per_s": batch / update["median"],
                "mfu": ours.flops_lowered / update["median"] / peak,
                "loss": c.loss,
                "compile_s": c.compile_s,
                "peak_device_bytes": c.peak_bytes(),
                "peak_process_bytes": alone if len(contenders) == 1 else None,
            }
        )
    program = {"flops": ours.flops, "flops_lowered": ours.flops_lowered}
    records[0] |= program | {"program_bytes": ours.program_bytes()}
    return records


def markdown(records: Sequence[dict]) -> str:
    """Returns the records as a table, with the speed relative to the first peer's."""
    head = (
        "contender",
        "update, s",
        "quartiles, s",
        "images/s",
        "MFU",
        "compile, s",
        "memory, GiB",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    base = records[min(1, len(records) - 1)]["update_s"]["median"]
    for record in records:
        update = record["update_s"]
        memory = record["peak_device_bytes"] or record["peak_process_bytes"]
        cells = [
            record["name"],
            f"{update['median']:.4g} ({base / update['median']:.2f}x)",
            f"{update['quartile_1']:.4g} to {update['quartile_3']:.4g}",
            f"{record['images_per_s']:.4g}",
            f"{record['mfu']:.1%}",
            f"{record['compile_s']:.1f}",
            f"{memory / 2**30:.2f}" if memory else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _setting(text: str) -> tuple[str, Any]:
    """Returns ('remat', 'blocks') for 'remat=blocks', and numbers as numbers."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main() -> None:
    """Measures what the command line asks for; writes results.json and table.md, and prints."""
    from presets import TRAINING

    parser = comparison_flags(__doc__, TRAINING, "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default by device")
    parser.add_argument("--steps", type=int, help="updates per turn; default 1, 10 on cuda")
    parser.add_argument(
        "--unet", type=_setting, nargs="*", default=[], help="fields of ours, as remat=blocks"
    )
    args = parser.parse_args()
    one_device(args.device)
    on_gpu = args.device == "cuda"
    dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    preset, steps = TRAINING[args.preset], args.steps or (10 if on_gpu else 1)
    batch, settings = args.batch or preset.batch, dict(args.unet)
    contenders = make_contenders(preset, dtype, args.device, batch, args.peers, settings)
    peak = matmul_peak(args.device, dtype, bool(args.peers))
    records = measure(contenders, batch, steps, args.repeats, peak)
    options = {"dtype": dtype, "batch": batch, "steps": steps, "unet": settings}
    results = {"matmul_flops_per_s": peak, "records": records}
    report(args, options, markdown(records), results)
    print(
        f"\n{args.preset}, batch {batch}, {dtype}, {records[0]['parameters']:,} parameters, "
        f"{records[0]['flops_lowered']:.4g} FLOPs an update; matrix products run at "
        f"{peak / 1e12:.3g} TFLOP/s"
    )


if __name__ == "__main__":
    main()
