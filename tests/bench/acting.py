"""CPU time of acting per env step and seed, refresh included: `python -m tests.bench.acting`.

Rounds of env steps and updates as in training; only the policy is timed, as CPU time, and of
interleaved repetitions the least is shown. Updates come between, as they empty its caches.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from qbench import layers
from qbench.algo.dqn import DQN
from qbench.network.cnn import CNN
from qbench.network.heads import QNetwork
from qbench.train.acting import behaviour_policy
from qbench.types import BehaviourPolicy, EnvSpec, ObsArray, Transition
from tests.bench import cpu
from tests.quant.test_qat import scheme
from tests.toys import mlp

REPETITIONS = 6
WAYS = [("fake", 1), ("fake", 16), ("float", 1), ("integer", 1), ("integer", 4), ("integer", 16)]
CARTPOLE = EnvSpec(id="CartPole-v1", obs_shape=(4,), num_actions=2)
PONG = EnvSpec(id="Pong", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6)


def main() -> None:
    """Print the table."""
    cpu.restart_as_job()
    cpu.pin()
    print("us per env step and seed:", *(f"{acting}/{updates}" for acting, updates in WAYS))
    for num_seeds in (1, 2, 4, 8):
        report(f"mlp 128-128, S={num_seeds}", mlp([128, 128]), CARTPOLE, num_seeds, 8, 4, 16)
    paper = {"channels": [16, 32], "kernel_sizes": [8, 4], "strides": [4, 2], "hidden_size": 256}
    nature = {"channels": [32, 64, 64], "kernel_sizes": [8, 4, 3], "strides": [4, 2, 1]}
    for name, shape in (("cnn_paper", paper), ("cnn_nature", {**nature, "hidden_size": 512})):
        torso = lambda obs_shape, shape=shape: CNN(obs_shape=obs_shape, **shape)  # noqa: E731
        for num_seeds in (1, 2):
            report(f"{name}, S={num_seeds}", torso, PONG, num_seeds, 4, 1, 16)


def report(
    name: str,
    torso: Callable[[tuple[int, ...]], torch.nn.Module],
    spec: EnvSpec,
    num_seeds: int,
    train_frequency: int,
    gradient_steps: int,
    num_rounds: int,
) -> None:
    """One row: every way of acting on one learner of its own."""
    learners = {way: quantized_learner(torso, spec, num_seeds) for way in WAYS}
    policies = {
        (acting, updates): behaviour_policy(
            learners[acting, updates], spec, acting=acting, refresh_updates=updates
        )
        for acting, updates in WAYS
    }
    obs, batch = observations(spec, num_seeds), minibatch(spec, num_seeds)
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(REPETITIONS):
        for way in WAYS:
            spent = 0.0
            for _ in range(num_rounds):
                for _ in range(gradient_steps):
                    learners[way].update(batch)
                policies[way].count_updates(gradient_steps)
                spent += seconds_of(policies[way], obs, train_frequency)
            least[way] = min(least[way], spent / (num_rounds * train_frequency * num_seeds))
    print(f"{name}:", *(f"{1e6 * least[way]:.0f}" for way in WAYS), flush=True)


def quantized_learner(
    torso: Callable[[tuple[int, ...]], torch.nn.Module], spec: EnvSpec, num_seeds: int
) -> DQN:
    """A learner of qat8 that has done one update."""
    network = layers.populate(lambda: QNetwork(make_torso=torso, spec=spec), range(num_seeds))
    learner = DQN(
        network=scheme(8).prepare(network),
        learning_rate=1e-4,
        gamma=0.99,
        double=False,
        target_network=True,
        loss="huber",
        max_grad_norm=None,
    )
    learner.update(minibatch(spec, num_seeds))
    return learner


def observations(spec: EnvSpec, num_seeds: int, count: int = 1) -> ObsArray:
    """[S, *obs_shape], or [S, count, *obs_shape] of more than one."""
    rng, shape = np.random.default_rng(0), (num_seeds, *([count] * (count > 1)), *spec.obs_shape)
    if spec.obs_high is None:
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(spec.obs_high + 1, size=shape, dtype=np.uint8)


def minibatch(spec: EnvSpec, num_seeds: int, batch_size: int = 8) -> Transition:
    """A small one: updates are not what is timed."""
    obs = torch.from_numpy(observations(spec, num_seeds, batch_size))
    zeros = torch.zeros(num_seeds, batch_size)
    return Transition(obs, zeros.long(), zeros, zeros.bool(), obs)


def seconds_of(policy: BehaviourPolicy, obs: ObsArray, count: int) -> float:
    """CPU seconds of `count` actions, and of the refresh that the first one may need."""
    started = time.process_time()
    for _ in range(count):
        policy(obs)
    return time.process_time() - started


if __name__ == "__main__":
    main()
