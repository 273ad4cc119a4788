"""What is told of a step that was not finite, where going back finds nothing or fails."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.train.diverged import Diagnosis
from ldm_jax.train.metrics import NonFiniteError
from ldm_jax.train.state import TrainState

HINT = (
    "step 12: loss is nan; expected a finite number. Try a lower train.learning_rate, a "
    "train.clip_norm such as 1.0, or longer train.warmup_steps. "
)


class Stream:
    """Batch n holds the examples 2 n and 2 n + 1."""

    def __init__(self):
        self.number, self.indices = 0, np.zeros(0, np.int64)

    def __next__(self):
        self.indices = 2 * self.number + np.arange(2)
        self.number += 1
        return {"x": self.indices.astype(np.float32)}


def make_state(step):
    params = {"a": {"kernel": jnp.array([3.0, 4.0])}, "b": jnp.ones(1)}
    return TrainState(jnp.int32(step), params, {}, {}, {})


def explain(tmp_path, detailed_step_fn):
    """Returns (error, what was written, steps that were done again) for a run from step 10."""
    stream, again = Stream(), []

    def restore():
        stream.number = 10
        return make_state(10)

    def step_fn(state, frozen, batch):
        again.append(int(batch["x"][0]))
        return make_state(int(state.step) + 1), {}

    diagnosis = Diagnosis(tmp_path, object(), stream, restore, step_fn, detailed_step_fn)
    stream.number = 10
    for step in range(11, 15):
        next(stream)
        diagnosis.note(step)
    window = [(11, {"loss": 0.5, "psnr": jnp.inf}), (12, {"loss": float("nan")})]
    error = NonFiniteError(12, "loss", float("nan"), window)
    state = make_state(14)
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    told = diagnosis.explain(error, mesh, state, {})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    return told, json.loads((tmp_path / "diverged" / "00000012.json").read_text()), again


def test_a_step_that_is_finite_the_second_time(tmp_path):
    def detailed(state, frozen, batch):
        assert batch["x"].tolist() == [22.0, 23.0]
        after = {"a/kernel": (jnp.float32(jnp.inf), 1), "b": (jnp.float32(1.0), 0)}
        return state, {
            "loss": jnp.float32(0.25),
            "gradient": {"b": (jnp.float32(2.0), 0)},
            "after": after,
        }

    error, record, again = explain(tmp_path, detailed)
    path = tmp_path / "diverged" / "00000012.json"
    assert again == [20]
    assert str(error) == (
        f"{HINT}Its examples, and norms by layer, are in {path}. Done again, it is finite: suspect "
        "the hardware."
    )
    assert record == {
        "step": 12,
        "found": {"loss": "nan"},
        "metrics": [{"step": 11, "loss": 0.5, "psnr": "inf"}, {"step": 12, "loss": "nan"}],
        "examples": [{"index": 22}, {"index": 23}],
        "repeated": False,
        "repeated_from_step": 10,
        "layers": {
            "a/kernel": {
                "before": {"norm": 5.0, "not_finite": 0},
                "after": {"norm": "inf", "not_finite": 1},
            },
            "b": {
                "before": {"norm": 1.0, "not_finite": 0},
                "gradient": {"norm": 2.0, "not_finite": 0},
                "after": {"norm": 1.0, "not_finite": 0},
            },
        },
    }


def test_a_step_that_cannot_be_repeated(tmp_path):
    def detailed(state, frozen, batch):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    error, record, _ = explain(tmp_path, detailed)
    text = rf"^{re.escape(HINT)}Its examples are in .*12.json; the step could not be repeated.$"
    with pytest.raises(NonFiniteError, match=text):
        raise error
    assert record["not_repeated"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert [example["index"] for example in record["examples"]] == [22, 23]
