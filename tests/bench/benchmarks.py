"""What is timed by `make bench` and `make bench-check`: one small piece of work per name.

Names are group/variant; within a group only the variant changes, so that ratios can be read.
An MLP is CartPole's 4-120-84-2 with eight seeds and batch 128, an actor and its critic
Pendulum's 256-256 with four seeds and batch 256, a CNN Nature's on Pong with one seed and
batch 32. Post-training quantization has no updates: calibration is its work.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from gymnasium.wrappers import TimeLimit

from qbench.evaluate.play import greedy, play
from qbench.layers import take_seed
from qbench.report import rows
from qbench.train.acting import behaviour_policy
from qbench.train.build import Parts
from qbench.types import Policy
from tests.bench import workload
from tests.bench.acting import observations
from tests.report.grids import write_grid

NUM_SEEDS = 8
NUM_ACTORS = 4
# Short works find quiet moments on a busy machine.
CHUNK_ENV_STEPS = {"mlp": 2, "ddpg": 1, "cnn": 4}
EPISODE_ENV_STEPS = 25
FILLED_ENV_STEPS = 300  # in the replay before anything is timed
STARTS = f"algo.loop.learning_starts={FILLED_ENV_STEPS}"
REFRESH_UPDATES = 16

Work = Callable[[], object]


class Benchmark(NamedTuple):
    """One repeatable piece of work, and the fixed work of its kind that it is timed next to."""

    make: Callable[[], Work]
    reference: str  # of `tests.bench.reference.WORK`


def overrides_of(network: str, quant: str) -> list[str]:
    """The command line of one kind of network."""
    match network:
        case "mlp":
            return workload.cartpole(NUM_SEEDS, 1, quant)
        case "ddpg":
            return workload.pendulum(NUM_ACTORS, quant)
    return workload.pong(1, 2000, quant=quant)


def warm_parts(network: str, quant: str = "none", *more: str) -> Parts:
    """Parts with a filled replay, whose network has learned a little."""
    parts = workload.build_parts([*overrides_of(network, quant), *more])
    parts.collector.collect(FILLED_ENV_STEPS)
    for batch in parts.sampler.sample(3):
        parts.learner.update(batch)
    return parts


def update(network: str, quant: str) -> Work:
    """One update of all seeds."""
    parts = warm_parts(network, quant)
    (batch,) = parts.sampler.sample(1)
    return lambda: parts.learner.update(batch)


def calibrate(network: str) -> Work:
    """The ranges of ptq8 from two minibatches, and the first seed's integers."""
    parts = warm_parts(network)
    scheme = workload.build_parts(overrides_of(network, "ptq8")).scheme
    prepared = scheme.prepare(parts.learner.network)
    batches = [batch.obs for batch in parts.sampler.sample(2)]

    def work() -> None:
        scheme.calibrate(prepared, batches)
        scheme.convert(take_seed(prepared, 0))

    return work


def collect(network: str, quant: str) -> Work:
    """One env step of all seeds, past the random ones: acting, stepping, storing."""
    parts = warm_parts(network, quant, STARTS)
    return lambda: parts.collector.collect(1)


def sample(network: str) -> Work:
    """One minibatch of all seeds."""
    parts = warm_parts(network)
    return lambda: parts.sampler.sample(1)


def act(network: str, acting: str) -> Work:
    """One action of every seed, on what is cached from one refresh to the next."""
    parts = warm_parts(network, "qat8")
    policy = behaviour_policy(
        parts.learner, parts.spec, acting=acting, refresh_updates=REFRESH_UPDATES
    )
    obs = observations(parts.spec, len(parts.seeds))
    return lambda: policy(obs)


def chunk(network: str, quant: str) -> Work:
    """Env steps and their updates, by the module of a real run."""
    advance = workload.qbench_runner([*overrides_of(network, quant), STARTS])
    advance(FILLED_ENV_STEPS + 4)
    return lambda: advance(CHUNK_ENV_STEPS[network])


def evaluation(quant: str) -> Work:
    """A greedy episode of every seed, cut short; the converted networks of qat8."""
    parts = warm_parts("mlp", quant)
    policy: Policy = lambda obs: parts.learner.act(torch.from_numpy(obs)).numpy()  # noqa: E731
    if quant != "none":
        network = parts.learner.network.eval()
        agents = [parts.scheme.convert(take_seed(network, k)) for k in range(NUM_SEEDS)]
        policy = greedy(agents, parts.spec)
    make_env = lambda: TimeLimit(parts.env.make(), EPISODE_ENV_STEPS)  # noqa: E731
    return lambda: play(policy, make_env, num_seeds=NUM_SEEDS, num_episodes=1)


def report() -> Work:
    """The rows of a report from two folders of ten seeds."""
    folder = tempfile.TemporaryDirectory(prefix="qbench_bench_")
    run_dirs = write_grid(Path(folder.name), envs=["cartpole"], quants=["none", "qat8"])

    def work(folder: object = folder) -> object:  # The folder lives as long as the work.
        return rows.make(run_dirs)

    return work


KINDS = {"mlp": "population", "ddpg": "products", "cnn": "images"}
"""Network -> what an update of it is timed next to."""


def _all() -> dict[str, Benchmark]:
    made: dict[str, Benchmark] = {}

    def add(kind: str, make: Callable[..., Work], *variants: str) -> None:
        name = "/".join([f"{make.__name__} {variants[0]}", *variants[1:]])
        made[name] = Benchmark(functools.partial(make, *variants), kind)

    for network, kind in KINDS.items():
        for quant in ("none", "qat8", "qat4"):
            add(kind, update, network, quant)
            add(kind, chunk, network, quant)
    for network in ("mlp", "cnn"):
        add("python" if network == "mlp" else "images", calibrate, network)
        add("python", sample, network)
        for acting in ("float", "fake", "integer"):
            add("python" if network == "mlp" else "images", act, network, acting)
    for quant in ("none", "qat8", "qat4"):
        add("python", collect, "mlp", quant)
    add("python", collect, "ddpg", "none")
    add("images", collect, "cnn", "none")
    for quant in ("none", "qat8"):
        made[f"evaluation mlp/{quant}"] = Benchmark(functools.partial(evaluation, quant), "python")
    made["report"] = Benchmark(report, "python")
    return made


BENCHMARKS = _all()
