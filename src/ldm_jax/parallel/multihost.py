"""One run of several processes: joining it, speaking to each other, ending together.

Texts travel through the coordination service of `jax.distributed`, which the first process runs:
that compiles nothing, works before the first collective, and can tell who is missing. What is said
here is small and rare; arrays travel over the devices.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from ldm_jax.core.checks import UserError

# Seconds for which one process waits for what another one says, while both should be there.
TIMEOUT = 300
# A process is given up by the others after so many seconds without a sign of life.
HEARTBEAT_TIMEOUT = 100
_ROOM = "ldm_jax"
_FAILED = f"{_ROOM}/failed"
_calls = itertools.count()  # all processes say the same things in the same order

End = Callable[[str], object]


class CommonError(UserError):
    """A mistake that all processes have heard of: each raises it."""


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_s: int = TIMEOUT,
    saves_on_sigterm: bool = False,
    end: End,
) -> None:
    """Makes this process one of a run's, before JAX has looked for devices.

    What is None is found by JAX, from Slurm, Open MPI, Kubernetes or the metadata of a TPU pod. On
    GPUs, Slurm's and Open MPI's tasks then see one device each, as JAX has it.

    Args:
      coordinator_address: HOST:PORT of the first process, on which it listens.
      num_processes: of the run.
      process_id: of this one.
      timeout_s: for all of them to come.
      saves_on_sigterm: SIGTERM is told to all processes, as `train.signals` needs it. Otherwise it
        ends the process, as it does in any program.
      end: ends the process with a sentence; called where they did not all come, since JAX itself
        would abort without one.

    Raises:
      UserError: no cluster that JAX knows, or the address cannot be used.
    """
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    where = coordinator_address or "the coordinator that was found"
    timer = threading.Timer(
        timeout_s,
        end,
        [
            f"{where}: not all processes came within {timeout_s} s. Legal: the same command on "
            "every host at the same time, each able to reach the first one's port."
        ],
    )
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            initialization_timeout=timeout_s + 60,  # ours comes first
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except ValueError as error:
        raise UserError(
            "--distributed: found none of Slurm, Open MPI, Kubernetes and a TPU pod "
            f"({_line(error)}). Legal: also --coordinator_address, --num_processes, --process_id."
        ) from error
    except RuntimeError as error:
        raise UserError(f"{where}: the processes cannot meet there ({_line(error)}).") from error
    finally:
        timer.cancel()


def several_tasks(environment: Mapping[str, str]) -> str | None:
    """Returns what says that a launcher started this program several times, or None."""
    counts = {
        # Slurm sets NTASKS in a shell of `salloc` too, where nothing was started several times.
        "SLURM_NTASKS": "SLURM_PROCID" in environment,
        "OMPI_COMM_WORLD_SIZE": True,
    }
    for name, counted in counts.items():
        value = environment.get(name, "")
        if counted and value.isdecimal() and int(value) > 1:
            return f"{name}={value}"
    index = environment.get("JOB_COMPLETION_INDEX", "")  # of Kubernetes; it tells no count
    if index.isdecimal() and int(index) > 0:
        return f"JOB_COMPLETION_INDEX={index}"
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    return f"TPU_WORKER_HOSTNAMES={hosts}" if "," in hosts else None


def is_first() -> bool:
    """Returns whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def gather(topic: str, text: str, timeout_s: int = TIMEOUT) -> list[str]:
    """Returns the texts of all processes, in their order; all must call it.

    Raises:
      UserError: some said nothing in time, naming them.
    """
    count = jax.process_count()
    if count == 1:
        return [text]
    client, folder = _client(), f"{_ROOM}/{next(_calls)}"
    client.key_value_set(f"{folder}/{jax.process_index()}", text)
    try:
        client.wait_at_barrier(folder, timeout_s * 1000)
    except RuntimeError as error:
        said = _said(client, folder)
        silent = [number for number in range(count) if number not in said]
        raise UserError(
            f"{topic}: no word of {processes(silent)} within {timeout_s} s; see what they wrote."
        ) from error
    said = _said(client, folder)
    return [said[number] for number in range(count)]


def part(timeout_s: int = TIMEOUT) -> None:
    """Waits until all processes have come to their end, and leaves the run."""
    gather("the end", "", timeout_s)
    jax.distributed.shutdown()


def from_first(text: str, timeout_s: int = TIMEOUT) -> str:
    """Returns the first process's text on all; all must call it."""
    if jax.process_count() == 1:
        return text
    client, key = _client(), f"{_ROOM}/{next(_calls)}"
    if is_first():
        client.key_value_set(key, text)
    return client.blocking_key_value_get(key, timeout_s * 1000)


def check_together(topic: str, complaint: str) -> None:
    """Raises an error on all processes if one of them has a complaint, naming whose it is.

    Args:
      topic: what is checked, should one of them say nothing.
      complaint: a sentence, '' if there is none.

    Raises:
      CommonError: with the first complaint.
    """
    said = gather(topic, complaint)
    for text in filter(None, said):
        who = [number for number, other in enumerate(said) if other == text]
        raise CommonError(f"{processes(who)}: {text}" if len(said) > 1 else text)


def check_same(topic: str, value: Any, legal: str) -> None:
    """Raises CommonError on all processes unless all of them have the same value.

    Args:
      topic: what it is.
      value: its text is compared, and shown.
      legal: what to do, for the message.
    """
    mine, first = str(value), from_first(str(value))
    check_together(
        topic,
        "" if mine == first else f"{topic} is {mine}, but {first} on process 0. Legal: {legal}.",
    )


def device_map() -> list[str]:
    """Returns a line for each process: its host and its devices; all must call it."""
    devices = jax.local_devices()
    numbers = sorted(device.id for device in devices)
    mine = f"{os.uname().nodename}, devices {_ranges(numbers)} ({devices[0].device_kind})"
    return [f"process {n} on {text}" for n, text in enumerate(gather("the device map", mine))]


def check_devices(timeout_s: int = TIMEOUT) -> None:
    """Sums over all devices, and raises UserError unless the sum is right and comes in time."""
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices, found = jax.devices(), []
    mesh = Mesh(np.asarray(devices), ("devices",))
    numbers = np.arange(1, len(devices) + 1, dtype=np.int32)

    def run() -> None:
        split = jax.make_array_from_callback(
            numbers.shape, NamedSharding(mesh, PartitionSpec("devices")), lambda at: numbers[at]
        )
        total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        found.append(int(total(split)))

    # In a thread, since a collective that hangs cannot be interrupted.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    expected = int(numbers.sum())
    if found != [expected]:
        hangs = f"is not done after {timeout_s} s" if thread.is_alive() else "failed, see above"
        raise UserError(
            f"a sum over the {len(devices)} devices {'is wrong' if found else hangs}. Legal: hosts "
            "whose devices reach each other; see the network's settings."
        )


def tell_failure(sentence: str) -> None:
    """Tells the other processes that this one has failed; only the first to say so is heard."""
    try:
        _client().key_value_set(_FAILED, f"process {jax.process_index()}: {sentence}")
    except RuntimeError as error:
        logging.debug("nobody hears of it: %s", error)  # another was quicker, or all are gone


def watch(end: End, every_s: float = 1.0) -> Callable[[], None]:
    """Calls `end` from a thread when another process fails or the first one is gone.

    The main thread may hang in a collective by then, which no exception reaches.

    Returns:
      What stops it.
    """
    client, stopped = _client(), threading.Event()

    def run() -> None:
        while not stopped.wait(every_s):
            try:
                end(client.key_value_try_get(_FAILED))
                return
            except RuntimeError as error:
                if "NOT_FOUND" in str(error):
                    continue
                if not stopped.is_set():
                    end(f"process 0 is gone, which held the run together ({_line(error)}).")
                return

    threading.Thread(target=run, daemon=True).start()
    return stopped.set


def processes(numbers: Iterable[int]) -> str:
    """Returns 'process 3', or 'processes 0-2, 7'."""
    numbers = sorted(numbers)
    return f"process{'' if len(numbers) == 1 else 'es'} {_ranges(numbers)}"


def _ranges(numbers: list[int]) -> str:
    parts = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def _said(client: Any, folder: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): text for key, text in client.key_value_dir_get(folder)}


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _client() -> Any:
    from jax._src import distributed  # no public door leads there; Orbax takes this one too

    client = distributed.global_state.client
    if client is None:
        raise UserError("several processes, but not joined. Legal: the flag --distributed.")
    return client
