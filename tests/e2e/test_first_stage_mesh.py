"""A first stage with attention on a mesh that splits everything there is to split."""

import json
from pathlib import Path

import pytest

from ldm_jax.cli.main import main

TINY = f"{Path(__file__).parent / 'tiny.py'}:adversarial"
OVERRIDES = (
    "--config.task.model.mid_attention=True",
    "--config.train.mesh=(2,2,2)",
    "--config.train.steps=1",
    "--config.evaluation.every=1",
)

pytestmark = pytest.mark.slow  # two compilations of both players on eight devices


def test_parts_of_the_state_are_evaluated_and_taken_from_another_model(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "--config", TINY, "--workdir", str(first), *OVERRIDES]) == 0
    start = (f"--config.train.init_from={first}", "--config.task.code_init=uniform")
    assert main(["train", "--config", TINY, "--workdir", str(second), *OVERRIDES, *start]) == 0
    for workdir in (first, second):
        (row,) = (workdir / "evaluation.jsonl").read_text().splitlines()
        assert json.loads(row)["psnr"] > 1
