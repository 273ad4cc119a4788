"""Host memory: the same split, another kind of memory, and a sentence where there is none."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.host_memory import check_host_memory, on_device, on_host
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import shardings


def test_there_and_back_keeps_the_split_and_the_numbers():
    mesh = make_mesh((2, 4, 1))
    tree = {"kernel": np.arange(32.0, dtype=np.float32).reshape(8, 4)}
    layout = shardings(mesh, tree)
    there = jax.device_put(tree, on_host(layout))["kernel"]
    assert there.sharding.memory_kind == "pinned_host"
    assert there.sharding.spec == layout["kernel"].spec
    assert {shard.data.shape for shard in there.addressable_shards} == {(2, 4)}
    back = on_device({"kernel": there})["kernel"]
    assert back.sharding == layout["kernel"]
    np.testing.assert_array_equal(back, tree["kernel"])
    assert on_device({"kernel": back})["kernel"] is back


def test_a_backend_without_host_memory_is_refused():
    check_host_memory(make_mesh(), "config.train.ema_on_host")
    memories = [SimpleNamespace(kind=kind) for kind in ("device", "unpinned_host")]
    device = SimpleNamespace(device_kind="abacus", addressable_memories=lambda: memories)
    text = (
        "config.train.ema_on_host=True: abacus has the memories device, unpinned_host and no "
        "pinned_host. Legal: False."
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        check_host_memory(SimpleNamespace(local_devices=[device]), "config.train.ema_on_host")
