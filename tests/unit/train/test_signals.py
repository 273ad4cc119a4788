"""Signals that ask a run to stop."""

import signal

import jax
import pytest

from ldm_jax.train import signals
from ldm_jax.train.signals import Interrupted, StopRequest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_one_process_stops_after_its_step(number, status):
    before = signal.getsignal(number)
    with StopRequest(7) as stop:
        assert not stop.after(8)
        signal.raise_signal(number)
        assert stop.after(9)
        assert stop.status == status
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with StopRequest(0) as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.after(1)


def test_several_processes_ask_jax_by_steps_of_their_own(monkeypatch):
    from jax.experimental import multihost_utils

    asked, sent = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda n: asked.append(n) or n == 3
    )
    monkeypatch.setattr(signals.os, "kill", lambda _, number: sent.append(number))
    of_sigterm = signal.getsignal(signal.SIGTERM)
    with StopRequest(500) as stop:
        assert signal.getsignal(signal.SIGTERM) is of_sigterm  # JAX's
        assert [stop.after(step) for step in (501, 502, 503)] == [False, False, True]
        assert stop.status == 0
        signal.raise_signal(signal.SIGINT)
        assert stop.status == 130
    assert asked == [1, 2, 3]
    assert sent == [signal.SIGTERM]


def test_without_the_service_signals_keep_their_meaning(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(signals, "_told_of_sigterm", lambda: False)
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(0) as stop:
        assert signal.getsignal(signal.SIGINT) is before
        assert not stop.after(1)


def test_what_is_raised_knows_its_status():
    assert Interrupted("stopped", 130).status == 130
    assert str(Interrupted("stopped", 0)) == "stopped"
