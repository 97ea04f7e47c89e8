"""What a cell has cost so far, over all attempts at it."""

import time
from typing import Any

from qbench.train import ledger
from qbench.types import State


class Spent:
    """Seconds, CPU seconds and peak memory, counted on from where a checkpoint was saved."""

    def __init__(self) -> None:
        self._started = time.time()
        self._before: dict[str, Any] = {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_bytes": 0}
        self._peak_device_bytes = 0
        self.continued_at: list[int] = []
        """Env steps at which the training went on after a stop."""

    @property
    def wall_s(self) -> float:
        """Seconds, without those between two attempts."""
        return float(self._before["wall_s"]) + time.time() - self._started

    @property
    def cpu_s(self) -> float:
        """CPU seconds."""
        return float(self._before["cpu_s"]) + time.process_time()

    @property
    def peak_rss_bytes(self) -> int:
        """The largest of the attempts."""
        return max(self.peak_rss_before_bytes, ledger.peak_rss_bytes())

    @property
    def peak_rss_before_bytes(self) -> int:
        """The largest of the attempts before this one."""
        return int(self._before["peak_rss_bytes"])

    @property
    def peak_device_bytes(self) -> int:
        """Of the CUDA allocator, the largest of the attempts."""
        before = int(self._before.get("peak_device_bytes", 0))  # older checkpoints have none
        return max(before, self._peak_device_bytes or ledger.peak_device_bytes())

    def end_training(self) -> None:
        """What the device is used for from now on, measuring too, is no cost of training."""
        self._peak_device_bytes = ledger.peak_device_bytes()

    def state(self) -> State:
        """So far."""
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "peak_rss_bytes": self.peak_rss_bytes,
            "peak_device_bytes": self.peak_device_bytes,
            "continued_at": self.continued_at,
        }

    def load_state(self, state: State) -> None:
        """Count on."""
        self._before = state
        self.continued_at = list(state["continued_at"])
