"""Signals that stop a server: none is lost, whichever thread the system gives it to."""

from __future__ import annotations

import os
import signal
import threading

from engine.server.signals import StopSignals


def test_a_signal_that_another_thread_got_wakes_the_main_thread() -> None:
    ready = threading.Event()

    def receive() -> None:
        ready.set()
        # To this very thread: the main one is not interrupted, and sleeps.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    with StopSignals() as signals:
        other = threading.Timer(0.05, receive)
        other.start()
        assert signals.wait(20)
        other.join()
    assert ready.is_set()


def test_each_signal_counts_once() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(20)
        assert not signals.wait(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wait(20)
        assert not signals.wait(0)
        assert not signals.wait(0.01)
