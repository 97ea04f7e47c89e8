"""What of the ledger a training does not show; its bytes are counted in test_cell.py."""

import ctypes
from pathlib import Path

import pytest

from qbench.train import ledger


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_trimming_gives_back_pages_that_are_free_below_a_block_in_use():
    blocks = [b"x" * 2000 + bytes([k % 256]) for k in range(20_000)]
    in_use = b"y" * 2000 + b"z"
    held = ledger.rss_bytes()
    del blocks
    ledger.trim_heap()
    assert held - ledger.rss_bytes() > 30 * 2**20
    assert len(in_use) == 2001


def test_trimming_is_nothing_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    ledger.trim_heap()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_peak_outlives_the_memory_that_made_it():
    block = bytearray(128 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert ledger.peak_rss_bytes() - ledger.rss_bytes() > 50 * 2**20
