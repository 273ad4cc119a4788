"""The device mesh and its checks."""

import re

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import (
    batch_shards,
    block_of,
    check_batch_size,
    make_mesh,
    order_by_process,
)


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 1), (2, 4, 1)),
        ((2, 2, 2), (2, 2, 2)),
        ((1, 1, -1), (1, 1, 8)),
    ],
)
def test_shapes(shape, sizes):
    mesh = make_mesh(shape)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    assert sorted(d.id for d in mesh.devices.flat) == list(range(8))
    assert all(t == jax.sharding.AxisType.Auto for t in mesh.axis_types)
    assert batch_shards(mesh) == sizes[0] * sizes[1]


def test_a_part_of_the_devices():
    assert make_mesh((-1, 2, 1), jax.devices()[:4]).devices.shape == (2, 2, 1)


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (8, 2, 1), (1, 1, 1)])
def test_sizes_that_do_not_use_all_devices(shape):
    with says(f"mesh={shape}: the sizes must multiply to this run's 8 device(s)."):
        make_mesh(shape)


@pytest.mark.parametrize("shape", [(8, 1), (-1, -1, 1), (0, 1, 1), (-2, 1, 1), (-2, -4, 1)])
def test_sizes_without_meaning(shape):
    with says(
        f"mesh={shape}: expected three positive sizes ('data', 'fsdp', 'tensor'), at most one -1."
    ):
        make_mesh(shape)


def test_batch_size():
    mesh = make_mesh((2, 2, 2))
    check_batch_size(mesh, 4)
    check_batch_size(mesh, 24, accumulation=3)
    with says(
        "train.batch_size=20 must be a multiple of data × fsdp × accumulation = 12. "
        "Legal: 12, 24, 36, …"
    ):
        check_batch_size(mesh, 20, accumulation=3)
    for size in (0, -4):
        with says(
            f"train.batch_size={size} must be a multiple of data × fsdp × accumulation = 4. "
            "Legal: 4, 8, 12, …"
        ):
            check_batch_size(mesh, size)


def test_shards_of_a_host_lie_together_where_the_network_scatters_them():
    # A 4x4 slice: hosts are tiles of 2x2 chips, the mesh goes along the rows.
    owners = np.array([2 * (row // 2) + column // 2 for row in range(4) for column in range(4)])
    order = order_by_process(owners[:, None])
    assert sorted(order.tolist()) == list(range(16))
    assert owners[order].tolist() == sorted(owners.tolist())
    for process in range(4):
        assert block_of(owners[order][:, None], process) == (process, 4)


def test_shards_of_several_processes_stay_where_they_are():
    owners = np.array([[1, 0], [0, 1]])
    assert order_by_process(owners).tolist() == [0, 1]
