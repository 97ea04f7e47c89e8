"""The work that peers are compared on, as command lines of qbench.

CartPole has the network and settings of CleanRL's dqn.py, Pong those of its dqn_atari.py with
Stable-Baselines3's loss and clipping. Double DQN, learning-rate decay and soft targets are off
on qbench's side, because Stable-Baselines3 has none of them here: both do the same arithmetic
per update.
"""

# qbench is imported in functions: the peer's peak memory must not hold its libraries.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbench.train import build

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"

GAMMA = 0.99
EPSILON = 0.05
MAX_GRAD_NORM = 10.0
LEARNING_STARTS = 1000

CARTPOLE_ID = "CartPole-v1"
HIDDEN_SIZES = [120, 84]
CARTPOLE_BATCH_SIZE = 128
CARTPOLE_LEARNING_RATE = 2.5e-4
CARTPOLE_BUFFER_SIZE = 10_000
CARTPOLE_TARGET_UPDATE_INTERVAL = 500

PENDULUM_ID = "Pendulum-v1"
PENDULUM_HIDDEN_SIZES = [256, 256]
PENDULUM_BATCH_SIZE = 256
PENDULUM_LEARNING_RATE = 3e-4
PENDULUM_BUFFER_SIZE = 10_000
PENDULUM_TAU = 0.005
PENDULUM_NOISE = 0.1

PONG_ID = "ALE/Pong-v5"
PONG_BATCH_SIZE = 32
PONG_LEARNING_RATE = 1e-4
PONG_TRAIN_FREQUENCY = 4
PONG_TARGET_UPDATE_INTERVAL = 1000


def cartpole(num_seeds: int, train_frequency: int, quant: str = "none") -> list[str]:
    """CartPole with the MLP 4-120-84-2."""
    return [
        "env=cartpole",
        "network=mlp",
        f"quant={quant}",
        f"num_seeds={num_seeds}",
        f"network.hidden_sizes={HIDDEN_SIZES}",
        f"replay.capacity={CARTPOLE_BUFFER_SIZE}",
        f"algo.learner.learning_rate={CARTPOLE_LEARNING_RATE}",
        "algo.loop.learning_rate_left=1.0",
        f"algo.loop.batch_size={CARTPOLE_BATCH_SIZE}",
        f"algo.loop.train_frequency={train_frequency}",
        f"algo.loop.learning_starts={LEARNING_STARTS}",
        f"algo.loop.target_update_interval={CARTPOLE_TARGET_UPDATE_INTERVAL}",
        *_dqn_of_sb3(),
    ]


def pendulum(num_seeds: int, quant: str = "none") -> list[str]:
    """Pendulum with DDPG, an update of actor and critic every step."""
    return [
        "env=pendulum",
        "algo=ddpg",
        "network=mlp",
        f"quant={quant}",
        f"num_seeds={num_seeds}",
        f"network.hidden_sizes={PENDULUM_HIDDEN_SIZES}",
        f"replay.capacity={PENDULUM_BUFFER_SIZE}",
        f"algo.learner.learning_rate={PENDULUM_LEARNING_RATE}",
        f"algo.learner.gamma={GAMMA}",
        "algo.learner.policy_frequency=1",
        "algo.learner.max_grad_norm=null",
        "algo.loop.learning_rate_left=1.0",
        f"algo.loop.batch_size={PENDULUM_BATCH_SIZE}",
        "algo.loop.train_frequency=1",
        "algo.loop.gradient_steps=1",
        f"algo.loop.learning_starts={LEARNING_STARTS}",
        "algo.loop.target_update_interval=1",
        f"algo.loop.tau={PENDULUM_TAU}",
        "algo.loop.average_weight=1.0",
        f"algo.loop.exploration.noise={PENDULUM_NOISE}",
    ]


def pong(
    num_seeds: int,
    buffer_size: int,
    learning_starts: int = LEARNING_STARTS,
    quant: str = "none",
) -> list[str]:
    """Pong with Nature's CNN, an update every fourth step."""
    return [
        "env=pong",
        "network=cnn_nature",
        f"quant={quant}",
        f"num_seeds={num_seeds}",
        f"replay.capacity={buffer_size}",
        f"algo.learner.learning_rate={PONG_LEARNING_RATE}",
        "algo.loop.learning_rate_left=1.0",
        f"algo.loop.batch_size={PONG_BATCH_SIZE}",
        f"algo.loop.train_frequency={PONG_TRAIN_FREQUENCY}",
        f"algo.loop.learning_starts={learning_starts}",
        f"algo.loop.target_update_interval={PONG_TARGET_UPDATE_INTERVAL}",
        *_dqn_of_sb3(),
    ]


def _dqn_of_sb3() -> list[str]:
    return [
        "algo=dqn",
        f"algo.learner.gamma={GAMMA}",
        "algo.learner.double=false",
        "algo.learner.loss=huber",
        f"algo.learner.max_grad_norm={MAX_GRAD_NORM}",
        "algo.loop.gradient_steps=1",
        "algo.loop.tau=1.0",
        "algo.loop.average_weight=1.0",
        f"algo.loop.exploration.start={EPSILON}",
        f"algo.loop.exploration.end={EPSILON}",
    ]


def build_parts(overrides: list[str]) -> build.Parts:
    """Env, network, learner, replay and collector of the work, as a run builds them."""
    from hydra import compose, initialize_config_dir

    from qbench.train import build, ledger

    ledger.keep_freed_memory()  # as a job does
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        cfg = compose("config", overrides)
    return build.build(cfg)


def qbench_runner(overrides: list[str]) -> Callable[[int], None]:
    """`advance(n)`: n env steps of every seed with their updates, by the module of a real run."""
    return runner(build_parts(overrides))


def runner(parts: build.Parts) -> Callable[[int], None]:
    """The same for parts that are there."""
    from qbench.train.average import Average
    from qbench.train.module import PopulationModule, Snapshots
    from qbench.train.stop import Stop

    stops: list[int] = []
    module = PopulationModule(
        learner=parts.learner,
        update=parts.update,
        collector=parts.collector,
        loop=parts.loop,
        phases=parts.phases,
        precision="float32",
        stops=stops,
        snapshots=Snapshots(parts.learner, Average(parts.learner, 1.0), None, lambda k: None),
        stop=Stop(),
    )

    def advance(num_env_steps: int) -> None:
        stops.append((stops[-1] if stops else 0) + num_env_steps)
        module.training_step(parts.sampler, len(stops) - 1)
        module.take_metrics()
        module.take_episodes()

    return advance
