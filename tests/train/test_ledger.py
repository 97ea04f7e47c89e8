"""What of the ledger a training does not show; the rest of its bytes is in test_cell.py."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qbench import layers
from qbench.network.cnn import CNN
from qbench.network.heads import QNetwork
from qbench.train import ledger
from qbench.types import EnvSpec
from tests.algo.test_dqn import random_batch
from tests.quant.test_qat import learner_of, scheme
from tests.toys import q_population


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_trimming_gives_back_pages_that_are_free_below_a_block_in_use():
    blocks = [b"x" * 2000 + bytes([k % 256]) for k in range(20_000)]
    in_use = b"y" * 2000 + b"z"
    held = ledger.rss_bytes()
    del blocks
    ledger.trim_heap()
    assert held - ledger.rss_bytes() > 30 * 2**20
    assert len(in_use) == 2001


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_what_an_update_frees_is_kept_until_the_heap_is_trimmed():
    ledger.keep_freed_memory()
    ledger.trim_heap()
    before = ledger.rss_bytes()
    for _ in range(3):
        # 160 MiB in blocks of 8: more than glibc keeps at the end of its heap on its own.
        blocks = [torch.ones(2 * 2**20) for _ in range(20)]
        del blocks
        assert ledger.rss_bytes() - before > 150 * 2**20
    ledger.trim_heap()
    assert ledger.rss_bytes() - before < 10 * 2**20


def test_both_are_nothing_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    ledger.keep_freed_memory()
    ledger.trim_heap()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_the_peak_outlives_the_memory_that_made_it():
    block = bytearray(128 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert ledger.peak_rss_bytes() - ledger.rss_bytes() > 50 * 2**20


PAPER = {"channels": [16, 32], "kernel_sizes": [8, 4], "strides": [4, 2], "hidden_size": 256}
IMAGES = EnvSpec(id="atari", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6)
BATCH = 32


def saved_by_the_papers_cnn(saved):
    """Bytes that a minibatch of 32 keeps for its backward, in 8 bits or, with None, in float."""
    torso = lambda shape: CNN(obs_shape=shape, **PAPER)  # noqa: E731
    network = layers.populate(lambda: QNetwork(make_torso=torso, spec=IMAGES), [0])
    if saved is not None:
        network = scheme(8, saved=saved).prepare(network)
    learner = learner_of(network, double=False)
    shape = (1, BATCH, *IMAGES.obs_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))
    batch = random_batch(1, BATCH)._replace(obs=images, next_obs=images)
    return ledger.saved_bytes(learner, SimpleNamespace(sample=lambda count: [batch]))


def test_codes_bring_a_quantized_cnn_below_the_float_one():
    # Elements of a layer's input: 84 x 84 x 4 bytes, 20 x 20 x 16, 9 x 9 x 32, 256.
    first, *hidden = (BATCH * count for count in (4 * 84 * 84, 16 * 400, 32 * 81, 256))
    # Float: the scaled image, and each ReLU's output, which is the next layer's input; that of
    # the last convolution twice, because its channels come last and flattening them copies.
    plain = 4 * (first + sum(hidden) + hidden[1])
    # Beside ReLU's floats: codes, of two bytes where they also say what lay outside.
    codes = first + sum(hidden) * (4 + 2)
    floats = 4 * first + sum(hidden) * (4 + 4)
    # The rest is the chosen actions' Q, the targets, scales and zero points.
    for saved, expected in ((None, plain), ("codes", codes), ("floats", floats)):
        assert 0 <= saved_by_the_papers_cnn(saved) - expected < 3000
    assert codes < 0.6 * plain and floats > 1.1 * plain


def test_weight_codes_are_in_the_ledger_once():
    learner = learner_of(scheme(8).prepare(q_population([0, 1], hidden_sizes=(256, 256))))
    learner.update(random_batch(2, 1))
    sampler = SimpleNamespace(sample=lambda count: [random_batch(2, 1)])
    # One observation keeps little; the weights' codes, 4 x 66,560 bytes, are in `other`.
    assert ledger.saved_bytes(learner, sampler) < 20_000
    assert sum(t.nbytes for t in ledger.cached_tensors(learner.network)) > 2 * 4 * 66_560
