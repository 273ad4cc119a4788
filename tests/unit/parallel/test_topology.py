"""Devices to compile for."""

import importlib.util

import jax
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.topology import topology_devices


def test_local_devices_are_those_of_jax():
    assert topology_devices("local") == jax.devices()


@pytest.mark.parametrize("name", ["v5e", "v5e:16", "v4:2x2x1", "h100:8", "v5e:16x16x"])
def test_what_is_no_topology(name):
    with pytest.raises(UserError) as error:
        topology_devices(name)
    assert str(error.value) == (
        f"--topology={name}: no such topology. Legal: local, or a slice as v5e:16x16, v5p:2x4x4, "
        "v6e:16x16."
    )


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        topology_devices("v5e:2x2")
    assert str(error.value) == (
        "--topology=v5e:2x2: needs the compiler for TPUs. Legal: pip install "
        '"ldm-jax[tpu-plan]", or --topology local.'
    )
