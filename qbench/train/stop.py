"""The request to stop, which a training answers when its state is whole."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """A training has stopped where it can be continued, because it was asked to."""


class Stop:
    """Whether a signal has asked this process to stop, and which.

    Until `listen` is called no signal is heard. The first SIGINT or SIGTERM raises
    KeyboardInterrupt, or waits to be asked for inside `deferred`. A second SIGINT ends the
    process at once; a second SIGTERM does not, because a scheduler and a parent may both send one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._num_interrupts = 0
        self._is_deferred = False

    def listen(self) -> None:
        """Receive SIGINT and SIGTERM from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def ignore(self) -> None:
        """Let nothing disturb the last words: the job is over anyway."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Stopped: a signal came.
        """
        if self.received is not None:
            raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals wait inside, for `check` and for the end."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts == 2:
            os._exit(128 + number)
        if self.received is not None:
            return
        self.received = number
        if not self._is_deferred:
            raise KeyboardInterrupt
