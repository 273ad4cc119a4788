"""Promise 3: saved on 4 × 2 devices, restored on 1, 2, 4 and 8, inspected without any of them."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from ldm_jax.models import UNet
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import bytes_per_device, placed, shardings
from ldm_jax.train.checkpoint import Checkpoints, restore_params
from ldm_jax.train.state import TrainState

SAVED_ON = (4, 2, 1)
STEP, POSITION = 7, {"iterator": {"next_index": 7}}
# A machine with a CPU and nothing else: one device where the run had eight.
INSPECT = """
import json, sys
import jax, numpy as np
from ldm_jax.train.checkpoint import read_item, read_item_infos

workdir = sys.argv[1]
found = {}
for item in ("params", "ema_params"):
    infos = read_item_infos(workdir, item, "unet")  # from the folder's metadata alone
    found[item] = {path: [list(x.shape), str(x.dtype)] for path, x in infos.items()}
shapes = {}
for path, (shape, dtype) in found["ema_params"].items():
    *modules, name = path.split("/")
    branch = shapes
    for module in modules:
        branch = branch.setdefault(module, {})
    branch[name] = jax.ShapeDtypeStruct(shape, dtype)
arrays = jax.tree.leaves(read_item(workdir, "ema_params", "unet", shapes))
total = sum(float(np.sum(x, dtype=np.float64)) for x in arrays)
print(json.dumps({"devices": len(jax.devices()), "infos": found, "total": total}))
"""


def random_state():
    """The state of a U-Net under AdamW, every number of it random, on the host."""
    unet = UNet(
        out_channels=4,
        channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        num_heads=4,
        transformer_depth=0,
        num_groups=4,
    )
    z = jax.ShapeDtypeStruct((1, 8, 8, 4), np.float32)
    t = jax.ShapeDtypeStruct((1,), np.float32)
    shapes = {"unet": jax.eval_shape(unet.init, jax.random.key(0), z, t)["params"]}
    moments = jax.eval_shape(optax.adamw(1e-3).init, shapes)
    draw = np.random.default_rng(0)

    def fill(x):
        if x.dtype == np.int32:
            return np.int32(STEP)
        return draw.standard_normal(x.shape).astype(np.float32)

    parts = shapes, shapes, {"diffusion": moments}
    params, ema, opt_state = (jax.tree.map(fill, part) for part in parts)
    return TrainState(np.int32(STEP), params, ema, opt_state, {})


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def workdir(state, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    mesh = make_mesh(SAVED_ON)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(STEP, jax.device_put(state, shardings(mesh, state)), POSITION)
    checkpoints.close()
    return workdir


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (2, 2, 1), (2, 2, 2)])
def test_the_same_numbers_on_any_number_of_devices(state, workdir, shape):
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    checkpoints = Checkpoints(workdir)
    wanted = placed(mesh, jax.eval_shape(lambda: state))
    got, position = checkpoints.restore(checkpoints.latest_step(), wanted)
    checkpoints.close()
    assert position == POSITION
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), state)
    for leaf, asked in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
        assert leaf.sharding == asked.sharding
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    assert bytes_per_device(got) <= 1.05 * whole / shape[1]
    averages, step = restore_params(workdir, wanted.params)  # as sampling reads them
    assert step == STEP
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(averages), state.ema_params)


def test_a_machine_with_one_cpu_reads_it(state, workdir):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    argv = [sys.executable, "-c", INSPECT, str(workdir)]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 1
    for item in ("params", "ema_params"):
        paths = jax.tree_util.tree_leaves_with_path(getattr(state, item)["unet"])
        expected = {
            "/".join(key.key for key in path): [list(x.shape), "float32"] for path, x in paths
        }
        assert found["infos"][item] == expected
    total = sum(float(np.sum(x, dtype=np.float64)) for x in jax.tree.leaves(state.ema_params))
    assert found["total"] == pytest.approx(total, rel=1e-12)
