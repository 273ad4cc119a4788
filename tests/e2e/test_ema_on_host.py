"""Averages in host memory: the run, its pictures, its checkpoints are those of any other run."""

import jax
import numpy as np
import pytest
import tiny

from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import placed
from ldm_jax.train.checkpoint import restore_params
from ldm_jax.train.loop import train


def config(steps, **fields):
    settings = tiny.get_config("autoencoder")
    settings.train.update(steps=steps, mesh=(4, 2, 1), sample_every=2, **fields)
    return settings


def kinds(state):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.ema_params)}


@pytest.mark.slow  # tests/unit/train/test_layout.py holds the step and the checkpoints
def test_a_run_may_move_its_averages_to_the_host_and_back(tmp_path):
    """With pictures at step 2, by a program that wants the averages on the device."""
    usual, moved, third = (tmp_path / name for name in ("usual", "moved", "third"))
    expected = train(config(3), usual)
    assert kinds(expected) == {"device"}
    assert kinds(train(config(2, ema_on_host=True), moved)) == {"pinned_host"}
    got = train(config(3), moved)  # resumed without
    assert kinds(got) == {"device"}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(expected))
    files = [sorted(p.relative_to(w) for p in w.glob("**/*2.png")) for w in (usual, moved)]
    assert files[0] == files[1] != []
    assert (usual / files[0][0]).read_bytes() == (moved / files[0][0]).read_bytes()

    # A run that starts from another, with averages on the host, and what sampling reads of it.
    got = train(config(2, init_from=str(usual), ema_on_host=True), third)
    assert kinds(got) == {"pinned_host"}
    one = make_mesh((1, 1, 1), jax.devices()[:1])
    kept, step = restore_params(third, placed(one, got.ema_params))
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, kept, jax.device_get(got.ema_params))
