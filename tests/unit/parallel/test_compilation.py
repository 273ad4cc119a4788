"""Options of the compiler by platform, and what they are for."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from compiling import as_users_compile

from ldm_jax.parallel.compilation import _OPTIONS, compiler_options

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "few_images_on_tpu.py"


def mesh_of(platform):
    return SimpleNamespace(devices=np.array([[[SimpleNamespace(platform=platform)]]], object))


def test_only_tpus_have_options():
    assert set(_OPTIONS) == {"tpu", "cpu"}  # the latter by tests/conftest.py
    assert compiler_options(mesh_of("gpu")) is None
    assert set(compiler_options(mesh_of("tpu"))) == {"xla_disable_hlo_passes"}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the compiler for TPUs: pip install "ldm-jax[tpu-plan]"',
)
def test_few_images_cost_no_more_than_eight():
    arguments = ("--size", "64", "--batches", "1", "2", "4", "8")
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=1800,
        env=as_users_compile(),
    )
    *few, eight = map(json.loads, done.stdout.splitlines()[:4])
    assert eight["images"] == 8
    assert eight["ours"] == eight["defaults"]
    for record in few:
        for what in ("bytes", "seconds"):
            assert 0 < record["ours"][what] <= eight["ours"][what]
    assert few[-1]["ours"]["bytes"] < 0.5 * few[-1]["defaults"]["bytes"]
