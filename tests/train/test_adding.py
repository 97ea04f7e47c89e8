"""A network and a quant scheme from one Python file and one YAML each, outside the package."""

import os
import subprocess
import sys
from pathlib import Path

from qbench import records
from tests.train.test_cell import TINY

NETWORK = """
from torch import nn

class Toy(nn.Module):
    def __init__(self, *, obs_shape, width):
        super().__init__()
        self.hidden = nn.Linear(obs_shape[0], width)
        self.relu = nn.ReLU()
        self.out_features = width

    def forward(self, obs):
        return self.relu(self.hidden(obs))
"""
SCHEME = """
import torch
from qbench import layers
from qbench.quant.none import NoQuant

class Rounded(layers.Linear):
    def forward(self, x):
        grid = torch.round(self.weight * self.steps) / self.steps
        weight = self.weight + (grid - self.weight).detach()
        return torch.baddbmm(self.bias.unsqueeze(1), x, weight.transpose(1, 2))

    def take_seed(self, k):
        plain = super().take_seed(k)
        plain.weight.data = torch.round(plain.weight.data * self.steps) / self.steps
        return plain

class Toy(NoQuant):
    def __init__(self, *, steps):
        self.steps = steps

    def prepare(self, module):
        def swap(layer):
            rounded = Rounded(layer.weight, layer.bias)
            rounded.steps = self.steps
            return rounded
        return layers.swap_layers(module, swap)
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_toy_network_and_a_toy_scheme_train_from_outside(tmp_path):
    write(tmp_path / "toy_network.py", NETWORK)
    write(tmp_path / "toy_scheme.py", SCHEME)
    write(tmp_path / "conf/network/toy.yaml", "_target_: toy_network.Toy\nwidth: 6\n")
    write(tmp_path / "conf/quant/toy.yaml", "_target_: toy_scheme.Toy\nsteps: 4\n")
    overrides = [o for o in TINY if "hidden_sizes" not in o]
    command = [sys.executable, "-m", "qbench", f"hydra.searchpath=[file://{tmp_path}/conf]"]
    done = subprocess.run(
        [*command, "network=toy", "quant=toy", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "multirun" / "default").glob("cartpole-toy-toy-dqn-*")
    summary = records.read_summary(run_dir)
    assert (summary["network"], summary["quant"]) == ("toy", "toy")
    import numpy as np

    with np.load(run_dir / "deploy" / "seed_0" / "policy.npz") as policy:
        assert policy["0.weight"].shape == (6, 4)
        assert (policy["0.weight"] * 4 == np.round(policy["0.weight"] * 4)).all()
