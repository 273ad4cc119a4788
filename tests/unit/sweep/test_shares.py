"""Who of several processes gets what of a machine."""

import os

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.shares import make_shares, started_in, visible_gpus


def test_gpus_and_cores_are_divided_without_rest():
    shares = make_shares(2, gpus=["0", "2", "5"], cores=range(8))
    assert [dict(share.environment) for share in shares] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "2,5"},
    ]
    assert [set(share.cores) for share in shares] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_without_gpus_cores_are_divided():
    shares = make_shares(2, gpus=[], cores=[1, 3, 5])
    assert [set(share.cores) for share in shares] == [{1}, {3, 5}]
    assert [share.environment["JAX_NUM_CPU_DEVICES"] for share in shares] == ["1", "2"]


def test_more_gpus_than_cores_leave_the_cores_to_all():
    shares = make_shares(3, gpus=["0", "1", "2"], cores=[7])
    assert [set(share.cores) for share in shares] == [{7}] * 3


@pytest.mark.parametrize(("processes", "gpus", "told"), [(3, ["0", "1"], "2 GPUs"), (0, [], "4 c")])
def test_processes_without_a_share_are_refused(processes, gpus, told):
    with pytest.raises(UserError, match=f"^--processes={processes}, for {told}.* Legal: 1 to "):
        make_shares(processes, gpus=gpus, cores=range(4))


def test_gpus_are_those_that_jax_would_take(tmp_path):
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "2", "10"]
    assert visible_gpus({"JAX_PLATFORMS": "cuda,cpu"}, tmp_path) == ["0", "2", "10"]
    assert visible_gpus({"JAX_PLATFORMS": "cpu"}, tmp_path) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-a, 3"}, tmp_path) == ["GPU-a", "3"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_a_share_lasts_as_long_as_a_process_starts(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
    cores = os.sched_getaffinity(0)
    share = make_shares(1, gpus=["4"], cores=[min(cores)])[0]
    with started_in(share):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
        assert os.sched_getaffinity(0) == {min(cores)}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "all"
    assert os.sched_getaffinity(0) == cores
