"""What processes say to each other, against a coordination service of NumPy and dicts."""

import re
import threading

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel import multihost
from ldm_jax.parallel.mesh import batch_block, block_of, make_mesh


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


class Service:
    """What JAX's client does, for processes of which all but one have spoken already."""

    def __init__(self, others, first):
        self.others, self.first, self.texts = others, first, {}

    def key_value_set(self, key, value):
        if key in self.texts:
            raise RuntimeError("ALREADY_EXISTS: there")
        self.texts[key] = value

    def wait_at_barrier(self, name, timeout_in_ms):
        assert timeout_in_ms >= 1000
        for number, text in self.others.items():
            self.texts[f"{name}/{number}"] = text
        if len(self.texts) < jax.process_count():
            raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.")

    def key_value_dir_get(self, folder):
        return [(k, v) for k, v in self.texts.items() if k.startswith(f"{folder}/")]

    def blocking_key_value_get(self, key, timeout_in_ms):
        assert timeout_in_ms >= 1000
        return self.texts.get(key, self.first)

    def key_value_try_get(self, key):
        if key not in self.texts:
            raise RuntimeError(f"NOT_FOUND: {key}")
        return self.texts[key]


@pytest.fixture
def pod(monkeypatch):
    """Makes this one process of several, whose others say what is given."""

    def make(process, count, others, first=None):
        service = Service(others, first)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda: process)
        monkeypatch.setattr(multihost, "_client", lambda: service)
        return service

    return make


def test_gathered_texts_are_in_the_order_of_processes(pod):
    pod(2, 12, {n: f"text {n}" for n in range(12) if n != 2})
    assert multihost.gather("numbers", "mine") == [
        "mine" if n == 2 else f"text {n}" for n in range(12)
    ]


def test_one_process_speaks_to_itself():
    assert multihost.gather("numbers", "mine") == ["mine"]
    assert multihost.from_first("mine") == "mine"
    multihost.check_together("numbers", "")
    multihost.check_same("numbers", 3, "the same")
    with says("a complaint."):
        multihost.check_together("numbers", "a complaint.")


def test_the_silent_are_named(pod):
    pod(0, 6, {1: "", 3: ""})
    with says("numbers: no word of processes 2, 4-5 within 7 s; see what they wrote."):
        multihost.gather("numbers", "", 7)


def test_the_first_process_is_heard_by_all(pod):
    pod(1, 3, {}, first="of the first")
    assert multihost.from_first("mine") == "of the first"
    service = pod(0, 3, {})
    assert multihost.from_first("mine") == "mine"
    assert list(service.texts.values()) == ["mine"]


def test_a_complaint_is_raised_by_all(pod):
    pod(0, 4, {1: "", 2: "full.", 3: "full."})
    with says("processes 2-3: full."):
        multihost.check_together("the disk", "")


def test_what_differs_is_shown(pod):
    pod(1, 2, {0: ""}, first="4")
    with says("process 1: the size is 3, but 4 on process 0. Legal: the same size."):
        multihost.check_same("the size", 3, "the same size")


def test_without_a_service_the_flag_is_named(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with says("several processes, but not joined. Legal: the flag --distributed."):
        multihost.gather("numbers", "")


def test_a_failure_ends_the_others(pod):
    service = pod(3, 4, {})
    ended, end = [], threading.Event()
    stop = multihost.watch(lambda text: (ended.append(text), end.set()), every_s=0.01)
    assert not end.wait(0.05)
    multihost.tell_failure("the disk is full")
    assert end.wait(10)
    multihost.tell_failure("and so it is")  # only the first is heard
    stop()
    assert ended == ["process 3: the disk is full"]
    assert len(service.texts) == 1


def test_a_lost_coordinator_ends_the_others(pod, monkeypatch):
    service = pod(1, 2, {})
    ended, end = [], threading.Event()

    def gone(key):
        raise RuntimeError("UNAVAILABLE: failed to connect\nmore")

    monkeypatch.setattr(service, "key_value_try_get", gone)
    stop = multihost.watch(lambda text: (ended.append(text), end.set()), every_s=0.01)
    assert end.wait(10)
    stop()
    assert ended == [
        "process 0 is gone, which held the run together (UNAVAILABLE: failed to connect)."
    ]


def test_devices_add_up():
    multihost.check_devices()
    (line,) = multihost.device_map()
    assert re.fullmatch(r"process 0 on .+, devices 0-7 \(cpu\)", line)


def test_a_hanging_collective_is_a_sentence(monkeypatch):
    held, started, make = threading.Event(), [], jax.make_array_from_callback

    def hang(*arguments):
        started.append(threading.current_thread())
        held.wait(10)
        return make(*arguments)

    monkeypatch.setattr(jax, "make_array_from_callback", hang)
    with says(
        "a sum over the 8 devices is not done after 0.1 s. Legal: hosts whose devices reach each "
        "other; see the network's settings."
    ):
        multihost.check_devices(0.1)
    held.set()
    started[0].join()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, None),  # a shell of salloc
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "SLURM_NTASKS=4"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
        ({"JOB_COMPLETION_INDEX": "0"}, None),
        ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX=3"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES=a,b"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ],
)
def test_tasks_of_a_launcher(environment, found):
    assert multihost.several_tasks(environment) == found


def test_join_without_a_cluster(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    before = jax.config.jax_enable_preemption_service
    try:
        with says(
            "--distributed: found none of Slurm, Open MPI, Kubernetes and a TPU pod "
            "(coordinator_address should be defined.). Legal: also --coordinator_address, "
            "--num_processes, --process_id."
        ):
            multihost.join(end=pytest.fail)
    finally:
        jax.config.update("jax_enable_preemption_service", before)


def test_processes_that_do_not_come_end_with_a_sentence(monkeypatch):
    ended, end = [], threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: end.wait(10))
    before = jax.config.jax_enable_preemption_service
    try:
        multihost.join(
            "node1:7", 2, 0, timeout_s=0.05, end=lambda text: (ended.append(text), end.set())
        )
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    assert ended == [
        "node1:7: not all processes came within 0.05 s. Legal: the same command on every host at "
        "the same time, each able to reach the first one's port."
    ]


@pytest.mark.parametrize(
    ("owners", "blocks"),
    [
        ([[0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),
        ([[1], [1], [0], [0]], {0: (1, 2), 1: (0, 2)}),  # a mesh that follows the network
        ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),  # tensor over processes
        ([[0, 0], [0, 0]], {0: (0, 1)}),
        ([[0, 1], [0, 1]], {0: (0, 1), 1: (0, 1)}),
    ],
)
def test_blocks_of_rows(owners, blocks):
    assert {p: block_of(np.array(owners), p) for p in blocks} == blocks


@pytest.mark.parametrize("owners", [[[0], [1], [0], [1]], [[0], [1], [1], [0]], [[0], [0], [1]]])
def test_scattered_rows_are_refused(owners):
    with says(
        "train.mesh: the rows of a process would not lie together. Legal: sizes whose last ones "
        "multiply to a divisor or a multiple of the devices of one process."
    ):
        block_of(np.array(owners), 0)


def test_one_process_holds_all_rows():
    assert batch_block(make_mesh((2, 2, 2))) == (0, 1)
