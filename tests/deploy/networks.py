"""Networks with ranges that have seen observations, in float and converted."""

import numpy as np
import torch

from qbench import layers
from qbench.network.cnn import CNN
from qbench.network.heads import Actor, QNetwork
from qbench.quant.none import NoQuant
from qbench.types import EnvSpec
from tests.quant.test_conv import images
from tests.quant.test_qat import scheme
from tests.toys import mlp

SPECS = {
    "mlp": EnvSpec(id="vector", obs_shape=(4,), num_actions=2),
    "actor": EnvSpec(
        id="box", obs_shape=(4,), action_low=(-2.0, 0.0, 1.0), action_high=(2.0, 1.0, 5.0)
    ),
    "cnn": EnvSpec(id="frames", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6),
    "planes": EnvSpec(id="planes", obs_shape=(4, 10, 10), obs_high=1, num_actions=3),
}
CONVOLUTIONS = {
    "cnn": {"channels": [16, 32], "kernel_sizes": [8, 4], "strides": [4, 2]},
    "planes": {"channels": [15], "kernel_sizes": [3], "strides": [1]},
}


def observations(name, count, seed=0):
    """[count, *obs_shape] as the env gives them."""
    if SPECS[name].obs_high is None:
        scales = np.array([1.0, 2.0, 0.1, 3.0])
        return (np.random.default_rng(seed).normal(size=(count, 4)) * scales).astype(np.float32)
    game = {"cnn": "atari", "planes": "planes"}[name]
    return images(game, 1, count, seed)[0]


def population(name, hidden_sizes=(255, 256), hidden_size=256):
    """One agent with a seed axis."""
    spec = SPECS[name]
    head = Actor if spec.num_actions is None else QNetwork

    def torso(shape):
        if name in CONVOLUTIONS:
            return CNN(obs_shape=shape, hidden_size=hidden_size, **CONVOLUTIONS[name])
        return mlp(hidden_sizes)(shape)

    return layers.populate(lambda: head(make_torso=torso, spec=spec), [0])


def float_policy(name, **sizes):
    """The float network of one agent."""
    return NoQuant().convert(layers.take_seed(population(name, **sizes), 0))


def integer_policy(name, bits, hidden_sizes=(255, 256), **changes):
    """An integer network of one agent."""
    quant = scheme(bits, **changes)
    module = quant.prepare(population(name, hidden_sizes)).train()
    for seed in range(4):
        module(torch.from_numpy(observations(name, 64, seed)).unsqueeze(0))
    return quant.convert(layers.take_seed(module.eval(), 0))
