"""Fixed work that benchmarks are timed next to; nothing of qbench is in it.

Each kind is bound by what its benchmarks are bound by, so that whatever slows the machine slows
both: `population` by the small products of many networks, `products` by large ones, `images` by
convolutions, `python` by the interpreter and small arrays. Changing one voids the baseline.
"""

import itertools
import json
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

Work = Callable[[], object]


def _learner(network: nn.Module, x: torch.Tensor) -> Work:
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)

    def work() -> None:
        adam.zero_grad()
        network(x).square().mean().backward()
        adam.step()

    return work


def population() -> Work:
    """An update of eight small networks side by side; their weights and moments fill a cache."""
    torch.manual_seed(0)
    x = torch.randn(8, 128, 4)
    sizes = itertools.pairwise((4, 120, 84, 2))
    weights = [torch.randn(8, i, o).div_(i**0.5).requires_grad_() for i, o in sizes]
    adam = torch.optim.Adam(weights, lr=1e-4, fused=True)

    def work() -> None:
        y = x
        for weight in weights:
            y = torch.bmm(y, weight).relu()
        adam.zero_grad()
        y.square().mean().backward()
        adam.step()

    return work


def products() -> Work:
    """An update of a wide network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return _learner(network, torch.randn(256, 256))


def images() -> Work:
    """An update of two convolutions."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU())
    return _learner(network, torch.rand(8, 4, 84, 84))


def python() -> Work:
    """Objects, text and small arrays, and a few small operators."""
    rng = np.random.default_rng(0)
    rows, weight = rng.random((8, 16)), torch.rand(8, 16, 16)

    def work() -> None:
        text = json.dumps([{"seed": k, "value": k / 7} for k in range(10)])
        assert len(json.loads(text)) == 10
        for _ in range(5):
            x = torch.from_numpy(rows.astype(np.float32)).unsqueeze(1)
            y = torch.bmm(x, weight)[:, 0].numpy()
            np.where(y > 0, y, -y).argmax(axis=-1)

    return work


WORK = {"population": population, "products": products, "images": images, "python": python}
