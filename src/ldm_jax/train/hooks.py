"""What a run shows: TensorBoard scalars, files of metrics, image grids, a progress bar."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from PIL import Image
from tqdm import tqdm

from ldm_jax.data.tokenizers import Tokenizer

METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.jsonl"


def image_grid(images_u8: np.ndarray, columns: int | None = None, border: int = 2) -> np.ndarray:
    """Returns one uint8 image [H, W, C] of all images [n, h, w, C], row by row, on white."""
    n, h, w, c = images_u8.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.full(
        (rows * (h + border) + border, columns * (w + border) + border, c), 255, np.uint8
    )
    for k, image in enumerate(images_u8):
        top, left = border + (k // columns) * (h + border), border + (k % columns) * (w + border)
        grid[top : top + h, left : left + w] = image
    return grid


def save_png(path: str | Path, image_u8: np.ndarray) -> None:
    """Writes one uint8 image [H, W, 1 or 3]."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8).save(path)


def log_pictures(folder: str | Path, step: int, pictures: Mapping[str, np.ndarray]) -> None:
    """Writes uint8 images [H, W, C] to a TensorBoard folder, each under its name."""
    writer = _summary_writer()(str(folder))
    for name, picture in pictures.items():
        writer.add_image(name, picture, step, dataformats="HWC")
    writer.close()


class RunLog:
    """Writes to TensorBoard, `metrics.jsonl` and a progress bar, from the first process only.

    What an interrupted run wrote after the checkpoint that is resumed will be written again, so
    it is dropped first: each step has one row. The evaluation of the resumed step itself may not
    have been reached, so it is done again.
    """

    def __init__(self, workdir: str | Path, total_steps: int, start_step: int, batch_size: int):
        self._workdir, self._batch_size = Path(workdir), batch_size
        self._writer, self._bar = None, None
        if jax.process_index() == 0:
            self._workdir.mkdir(parents=True, exist_ok=True)
            _keep_rows_until(self._workdir / METRICS_FILE, start_step)
            _keep_rows_until(self._workdir / EVALUATION_FILE, start_step - 1)
            # TensorBoard itself hides what a killed run wrote beyond the step it resumes from.
            self._writer = _summary_writer()(
                str(self._workdir / "tensorboard"), max_queue=100, purge_step=start_step + 1
            )
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                unit="step",
                dynamic_ncols=True,
                desc=self._workdir.name,
                smoothing=0.1,
                mininterval=1.0,
            )

    def advance(self) -> None:
        """Moves the bar by one step."""
        if self._bar is not None:
            self._bar.update(1)

    def scalars(self, step: int, values: Mapping[str, float], steps_per_second: float) -> None:
        """Writes the means of a window and shows loss and images/s."""
        images_per_second = steps_per_second * self._batch_size
        if self._writer is not None and self._bar is not None:
            row = {**values, "images_per_second": images_per_second}
            self._write(self._writer, "train", METRICS_FILE, step, row)
            # One loss, or one of every group.
            losses = {k: v for k, v in values.items() if k.rpartition("/")[2] == "loss"}
            shown = [f"{name} {value:.4f}" for name, value in losses.items()]
            self._bar.set_postfix_str(", ".join([*shown, f"{images_per_second:.0f} images/s"]))

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what an evaluation found, also to `evaluation.jsonl`."""
        if self._writer is not None:
            self._write(self._writer, "evaluation", EVALUATION_FILE, step, values)

    def _write(
        self, writer: Any, group: str, file_name: str, step: int, row: Mapping[str, float]
    ) -> None:
        with (self._workdir / file_name).open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")
        # Its thread dies in silence when a disk is full, and whoever fills its queue then waits for
        # ever; flushing meets the same error here.
        writer.flush()
        for name, value in row.items():
            writer.add_scalar(f"{group}/{name}", value, step)

    def images(self, step: int, name: str, images_u8: np.ndarray, columns: int | None) -> None:
        """Writes a grid to TensorBoard and to `workdir/<name>/<step>.png`."""
        if self._writer is not None:
            grid = image_grid(images_u8, columns)
            self._writer.add_image(name, grid, step, dataformats="HWC")
            save_png(self._workdir / name / f"{step:08d}.png", grid)

    def close(self) -> None:
        """Flushes and closes."""
        if self._writer is not None and self._bar is not None:
            self._writer.close()
            self._bar.close()


class CutCaptions:
    """Says once that captions are longer than the model reads, and in the end how often."""

    def __init__(self, tokenizer: Tokenizer | None):
        self._tokenizer, self._said = tokenizer, 0

    def look(self) -> None:
        """Warns if captions were cut, and if it has not been said yet."""
        if self._tokenizer is not None and self._tokenizer.truncated and not self._said:
            self._said = self._tokenizer.truncated
            logging.warning(
                "captions longer than %d tokens are cut there: %d so far, repeats and those read "
                "ahead included",
                self._tokenizer.length,
                self._said,
            )

    def close(self) -> None:
        """Logs the final count, where more were cut since."""
        if self._tokenizer is not None and self._tokenizer.truncated > self._said:
            logging.info("captions were cut %d times in all", self._tokenizer.truncated)


class QuarantineLog:
    """Keeps `quarantine.jsonl` in the workdir: which files could not be used, and why.

    Every process keeps its own, for it reads other files; what earlier runs found stays in it.
    """

    def __init__(self, workdir: str | Path, found: Mapping[str, str]):
        number = jax.process_index()
        self._path = Path(workdir) / f"quarantine{f'_{number}' if number else ''}.jsonl"
        self._found, self._written = found, _read_quarantine(self._path)

    def look(self) -> None:
        """Writes the file anew if there is more to tell; readers meet it whole."""
        found = self._written | dict(self._found)  # one copy: threads add to it
        if len(found) > len(self._written):
            rows = [json.dumps({"file": name, "reason": found[name]}) for name in sorted(found)]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
            temporary.replace(self._path)
            self._written = found

    def close(self) -> None:
        """Writes what is left, and says how much it is in all."""
        self.look()
        if self._found:
            logging.warning("%d files were quarantined; see %s", len(self._found), self._path)


def _read_quarantine(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {row["file"]: row["reason"] for row in rows}


def _summary_writer() -> Any:
    """Returns tensorboardX's class, imported by the writing process alone, for its protobuf."""
    # It also imports PyTorch wherever that is installed, which we neither need nor want.
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = cast(Any, None)  # makes `import torch` an ImportError
    try:
        from tensorboardX import SummaryWriter
    finally:
        if without_torch:
            del sys.modules["torch"]
    return SummaryWriter


def _keep_rows_until(path: Path, step: int) -> None:
    """Drops the rows of later steps, and a line that a kill tore."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(f"{line}\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
