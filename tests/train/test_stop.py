"""Signals, and what a second one does."""

import os
import signal

import pytest

from qbench.train import stop
from qbench.train.stop import Stop, Stopped

INT, TERM = signal.SIGINT, signal.SIGTERM


class Exited(BaseException):
    """In place of the process's end."""


@pytest.fixture
def listening(monkeypatch):
    """Handlers set, and put back."""

    def leave(code):
        raise Exited(code)

    monkeypatch.setattr(stop.os, "_exit", leave)
    before = {number: signal.getsignal(number) for number in (INT, TERM)}
    found = Stop()
    found.listen()
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def send(numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("numbers", "received"),
    [([INT], INT), ([TERM], TERM), ([TERM, TERM], TERM), ([TERM, INT], TERM), ([INT, TERM], INT)],
)
def test_inside_a_training_the_first_signal_counts_and_waits(listening, numbers, received):
    with pytest.raises(Stopped), listening.deferred():
        send(numbers)
    assert listening.received == received


@pytest.mark.parametrize("numbers", [[INT, INT], [TERM, INT, INT], [INT, TERM, INT]])
def test_a_second_interrupt_ends_the_process(listening, numbers):
    with pytest.raises(Exited, match="130"), listening.deferred():
        send(numbers)


def test_outside_a_training_it_interrupts(listening):
    with pytest.raises(KeyboardInterrupt):
        send([INT])
