"""What is written down when a run leaves the real numbers: `workdir/diverged/<step>.json`.

The metrics of a step are looked at every `train.log_every` steps, so the first bad one may lie that
far back, and its state is long overwritten. Nothing is kept against that day but the numbers of the
examples. Instead the run goes back to its newest checkpoint, does the steps since again, to the
same bits, and looks at each layer of the bad one.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.data.pipeline import Stream
from ldm_jax.data.source import Source
from ldm_jax.data.split import example_name
from ldm_jax.parallel.mesh import batch_block
from ldm_jax.parallel.sharding import put_batch
from ldm_jax.train.metrics import NonFiniteError, name_not_finite
from ldm_jax.train.state import TrainState
from ldm_jax.train.step import layer_norms

FOLDER = "diverged"
_FAILURES = (UserError, OSError, RuntimeError)  # JAX's own is a RuntimeError


class Diagnosis:
    """Finds out what a run met when its loss, gradient or parameters ceased to be finite.

    Args:
      workdir: of the run.
      source: that the stream reads.
      stream: of batches.
      restore: () -> the state at the newest checkpoint, or at the start, and the stream there too.
      step_fn: the train step.
      detailed_step_fn: the same, made with `detailed`; it is compiled when it is needed.
    """

    def __init__(
        self,
        workdir: str | Path,
        source: Source,
        stream: Stream,
        restore: Callable[[], TrainState],
        step_fn: Callable[..., Any],
        detailed_step_fn: Callable[..., Any],
    ):
        self._workdir, self._source, self._stream = Path(workdir), source, stream
        self._restore, self._step_fn, self._detailed = restore, step_fn, detailed_step_fn
        self._examples: dict[int, np.ndarray] = {}

    def note(self, step: int) -> None:
        """Keeps the numbers of the examples that the stream just gave."""
        self._examples[step] = self._stream.indices

    def forget(self) -> None:
        """Drops them: all is well so far."""
        self._examples.clear()

    def explain(
        self, error: NonFiniteError, mesh: Mesh, state: TrainState, frozen: PyTree
    ) -> NonFiniteError:
        """Returns the error with the name of the file that tells the rest.

        Args:
          error: what was found.
          mesh: of the run.
          state: after the last step; its memory is given back.
          frozen: as the step takes it.
        """
        path = self._workdir / FOLDER / f"{error.step:08d}.json"
        record: dict[str, Any] = {
            "step": error.step,
            "found": {error.name: _plain(error.value)},
            "metrics": [
                {"step": step, **{name: _plain(value) for name, value in metrics.items()}}
                for step, metrics in error.window
            ],
            "examples": self._named(error.step, mesh),
        }
        # At once, for what follows takes time, and may meet what broke the run.
        _write(path, record)
        logging.info("%s; going back to see in which layer", error.short)
        try:
            record |= self._replay(error.step, mesh, state, frozen)
            rest = f"Its examples, and norms by layer, are in {path}."
        except _FAILURES as failure:
            record["not_repeated"] = f"{type(failure).__name__}: {failure}"
            rest = f"Its examples are in {path}; the step could not be repeated."
        if record.get("repeated") is False:
            rest += " Done again, it is finite: suspect the hardware."
        _write(path, record)
        return error.with_more(rest)

    def _named(self, step: int, mesh: Mesh) -> list[dict[str, Any]]:
        """Returns the examples of a batch, those of every process, in its order."""
        indices = self._examples[step]
        if jax.process_count() > 1:
            # By block, for processes that `tensor` reaches over hold the same rows.
            rows = np.append(batch_block(mesh)[0], indices)
            gathered = np.asarray(multihost_utils.process_allgather(rows))
            blocks = {int(block): rest for block, *rest in gathered}
            indices = np.concatenate([blocks[block] for block in sorted(blocks)])
        named = ((int(index), example_name(self._source, int(index))) for index in indices)
        return [{"index": index, **({"name": name} if name else {})} for index, name in named]

    def _replay(self, last: int, mesh: Mesh, state: TrainState, frozen: PyTree) -> dict[str, Any]:
        """Returns what the layers were before and after step `last`, and its gradients."""
        jax.tree.map(lambda leaf: leaf.delete(), state)  # there may be no room for two
        state = self._restore()
        begin = int(state.step)
        for _ in range(begin + 1, last):
            state, _ = self._step_fn(state, frozen, put_batch(mesh, next(self._stream)))
        batch = put_batch(mesh, next(self._stream))
        before = jax.jit(layer_norms)(state.params)
        _, metrics = self._detailed(state, frozen, batch)
        metrics = jax.device_get(metrics)
        kinds = {"before": before, **{k: metrics.pop(k) for k in ("gradient", "after")}}
        layers = {
            layer: {kind: _norm(found[layer]) for kind, found in kinds.items() if layer in found}
            for layer in kinds["before"]
        }
        repeated = name_not_finite(metrics) is not None
        return {"repeated": repeated, "repeated_from_step": begin, "layers": layers}


def _norm(norm_and_count: Iterable[Any]) -> dict[str, Any]:
    norm, count = norm_and_count
    return {"norm": _plain(norm), "not_finite": int(count)}


def _plain(value: Any) -> float | str:
    """Returns a number, or the word for it: JSON has neither nan nor inf."""
    return float(value) if math.isfinite(value) else str(float(value))


def _write(path: Path, record: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
