"""The work that peers are compared on: CartPole DQN with the network and settings of CleanRL.

Double DQN, learning-rate decay and soft targets are off on qbench's side, because
Stable-Baselines3 has none of them here: both do the same arithmetic per update.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from qbench.train import build
from qbench.train.module import PopulationModule, Snapshots

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"

ENV_ID = "CartPole-v1"
HIDDEN_SIZES = [120, 84]
BATCH_SIZE = 128
BUFFER_SIZE = 10_000
LEARNING_RATE = 2.5e-4
GAMMA = 0.99
EPSILON = 0.05
MAX_GRAD_NORM = 10.0
TARGET_UPDATE_INTERVAL = 500
LEARNING_STARTS = 1000


def overrides(num_seeds: int, train_frequency: int, quant: str) -> list[str]:
    """The work as a command line of qbench."""
    return [
        "env=cartpole",
        f"quant={quant}",
        "algo=dqn",
        f"num_seeds={num_seeds}",
        f"network.hidden_sizes={HIDDEN_SIZES}",
        f"replay.capacity={BUFFER_SIZE}",
        f"algo.learner.learning_rate={LEARNING_RATE}",
        f"algo.learner.gamma={GAMMA}",
        "algo.learner.double=false",
        "algo.learner.loss=huber",
        f"algo.learner.max_grad_norm={MAX_GRAD_NORM}",
        f"algo.loop.batch_size={BATCH_SIZE}",
        f"algo.loop.train_frequency={train_frequency}",
        "algo.loop.gradient_steps=1",
        f"algo.loop.learning_starts={LEARNING_STARTS}",
        "algo.loop.tau=1.0",
        f"algo.loop.target_update_interval={TARGET_UPDATE_INTERVAL}",
        f"algo.loop.final_learning_rate={LEARNING_RATE}",
        f"algo.loop.exploration.start={EPSILON}",
        f"algo.loop.exploration.end={EPSILON}",
    ]


def build_parts(num_seeds: int, train_frequency: int, quant: str) -> build.Parts:
    """Env, network, learner, replay and collector of the work, as a run builds them."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        cfg = compose("config", overrides(num_seeds, train_frequency, quant))
    return build.build(cfg)


def qbench_runner(num_seeds: int, train_frequency: int, quant: str) -> Callable[[int], None]:
    """`advance(n)`: n env steps of every seed with their updates, by the module of a real run."""
    parts = build_parts(num_seeds, train_frequency, quant)
    stops: list[int] = []
    module = PopulationModule(
        learner=parts.learner,
        collector=parts.collector,
        loop=parts.loop,
        stops=stops,
        snapshots=Snapshots(
            parts.learner, None, lambda k: parts.replay.observations(k, np.arange(0))
        ),
    )

    def advance(num_env_steps: int) -> None:
        stops.append((stops[-1] if stops else 0) + num_env_steps)
        module.training_step(parts.sampler, len(stops) - 1)
        module.take_metrics()
        module.take_episodes()

    return advance
