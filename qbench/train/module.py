"""The RL loop as a LightningModule: one training_step is a chunk of many cycles."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qbench.collect import Collector, Episode
from qbench.replay import ReplaySampler
from qbench.schedule import crossed
from qbench.train.average import Average
from qbench.train.build import Loop
from qbench.train.lightning import LightningModule
from qbench.train.phases import Phases
from qbench.train.stop import Stop
from qbench.types import Learner, Metrics, State, Transition


class PopulationModule(LightningModule):
    """Collects, updates and synchronizes S seeds in the algorithm's own order.

    Optimization is manual with raw optimizers, so Lightning's `global_step` stays 0; every
    event is a callback on `collector.env_step`.

    Args:
        learner: the algorithm.
        update: its update, or a recording of it.
        phases: of its networks' quantization.
        collector: envs and replay.
        loop: intervals.
        precision: of an update's products, "float32" or "bfloat16".
        stops: env steps at which a chunk ends, ascending; the last one ends the training.
        snapshots: keep each seed as it is when its budget is spent.
        stop: asked between cycles, where the state is whole.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        update: Callable[[Transition], Metrics],
        phases: Phases,
        collector: Collector,
        loop: Loop,
        precision: str,
        stops: Sequence[int],
        snapshots: "Snapshots",
        stop: Stop,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.learner = learner
        self._update = update
        # As attributes they are in checkpoints; `network` is the deployed one.
        for name, network in {**learner.trained(), **learner.targets()}.items():
            setattr(self, name, network)
        self.phases = phases
        self.collector = collector
        self.loop = loop
        self._precision = precision
        self.stops = stops
        self.env_step_before = 0
        self.episodes: list[Episode] = []
        self.snapshots = snapshots
        self.stop = stop
        self.train_s = 0.0
        self.owes_evaluation = False  # its env step has come, its episodes are not all played
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def configure_optimizers(self) -> Any:
        """The learner's own, so that checkpoints hold its moments."""
        return [optimizer.adam for optimizer in self.learner.optimizers()]

    def training_step(self, sampler: ReplaySampler, batch_idx: int) -> None:
        """Run cycles up to the chunk's end."""
        started = time.perf_counter()
        self.env_step_before = self.collector.env_step
        stop_at = self.stops[batch_idx]
        try:
            while self.collector.env_step < stop_at and not self.snapshots.are_complete:
                self.stop.check()
                self._cycle(sampler)
        finally:
            self.train_s += time.perf_counter() - started
        if self.snapshots.are_complete:
            self.trainer.should_stop = True

    def _cycle(self, sampler: ReplaySampler) -> None:
        """`train_frequency` env steps, then `gradient_steps` updates, then the target."""
        before = self.collector.env_step
        self.phases(before)
        count = min(self.loop.train_frequency, self.stops[-1] - before)
        ended = self.collector.collect(count)
        self.episodes.extend(self.snapshots.take(ended))  # `+=` is torch's slow __setattr__.
        now = self.collector.env_step
        if now < self.loop.learning_starts:
            return
        self.learner.set_learning_rate(self.loop.learning_rate(now))
        for batch in sampler.sample(self.loop.gradient_steps):
            with self.autocast():
                metrics = self._update(batch)
            self._accumulate(metrics)
        self.collector.policy.count_updates(self.loop.gradient_steps)
        self.snapshots.average.update()
        if crossed(self.loop.target_update_interval, before, now):
            self.learner.sync_target(self.loop.tau)

    def autocast(self) -> AbstractContextManager[Any]:
        """What an update is computed in; Lightning's would span a chunk of a thousand env steps.

        Without its cache: that keeps the cast weights of before the step in DDPG's second loss.
        """
        if self._precision == "float32":
            return nullcontext()
        device = self.learner.alive.device.type
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)

    def _accumulate(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            known = self._sums.get(name)
            if known is None:
                self._sums[name] = value.clone()
            else:
                known.add_(value)
            self._counts[name] += 1

    def state(self) -> State:
        """What has not been recorded yet, finished seeds, and the seconds of training."""
        return {
            "episodes": [list(episode) for episode in self.episodes],
            "sums": self._sums,
            "counts": dict(self._counts),
            "snapshots": self.snapshots.state(),
            "train_s": self.train_s,
            "owes_evaluation": self.owes_evaluation,
        }

    def load_state(self, state: State) -> None:
        """Go on from there, with the chunks that are left."""
        device = self.learner.alive.device
        self.episodes = [Episode(*episode) for episode in state["episodes"]]
        self._sums = {name: total.to(device, copy=True) for name, total in state["sums"].items()}
        self._counts = Counter(state["counts"])
        self.snapshots.load_state(state["snapshots"])
        self.train_s, self.owes_evaluation = state["train_s"], state["owes_evaluation"]
        # One that is over is gone through again: without a chunk there would be no end either.
        now = self.collector.env_step
        self.stops = [stop for stop in self.stops if stop > now] or self.stops[-1:]

    def take_metrics(self) -> dict[str, list[float]]:
        """Means per seed over the updates since the last call: name -> [S]; empty without any."""
        means = {name: (total / self._counts[name]).tolist() for name, total in self._sums.items()}
        self._sums, self._counts = {}, Counter()
        return means

    @property
    def mean_loss(self) -> float:
        """Over seeds and over the updates since `take_metrics`; NaN without any."""
        if not self._counts["loss"]:
            return float("nan")
        return float(self._sums["loss"].mean()) / self._counts["loss"]

    def take_episodes(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        taken, self.episodes = self.episodes, []
        return taken


class Kept(NamedTuple):
    """A seed as it was when its budget was spent."""

    env_step: int
    is_alive: bool
    tensors: list[Tensor]


class Snapshots:
    """Keeps each seed as it was when its budget of episodes was spent.

    The other seeds go on in lockstep; nothing later of a finished seed is recorded.

    Args:
        learner: whose network is kept, row by row.
        average: its averaged weights, which are what is kept.
        total_episodes: episodes per seed; None: no such limit.
        observe: keeps observations of the replay of a seed index as it stands.
    """

    def __init__(
        self,
        learner: Learner,
        average: Average,
        total_episodes: int | None,
        observe: Callable[[int], None],
    ) -> None:
        self.average = average
        self._learner = learner
        self._observe = observe
        self._tensors = [*learner.network.parameters(), *learner.network.buffers()]
        self._left = [total_episodes] * len(learner.alive)
        self._kept: dict[int, Kept] = {}

    @property
    def are_complete(self) -> bool:
        """Whether every seed has had its episodes."""
        return len(self._kept) == len(self._left)

    def is_running(self, k: int) -> bool:
        """Whether seed k still has episodes to go."""
        return k not in self._kept

    def take(self, ended: list[Episode]) -> list[Episode]:
        """The episodes that count; seeds that have now had theirs are copied."""
        counted = [episode for episode in ended if self._left[episode.seed_index] != 0]
        for episode in counted:
            k = episode.seed_index
            left = self._left[k]
            if left is not None:
                self._left[k] = left - 1
                if left == 1:
                    self._keep(k, episode.env_step)
        return counted

    def keep_rest(self, env_step: int) -> list[Kept]:
        """Keep the seeds that still run as they stand; all seeds in order."""
        for k in range(len(self._left)):
            if self.is_running(k):
                self._keep(k, env_step)
        return [kept for _, kept in sorted(self._kept.items())]

    def _keep(self, k: int, env_step: int) -> None:
        with self.average.applied():
            tensors = [tensor[k].detach().clone() for tensor in self._tensors]
        self._observe(k)
        self._kept[k] = Kept(env_step, bool(self._learner.alive[k]), tensors)

    def state(self) -> State:
        """Episodes left, seeds that were kept, and the averaged weights."""
        kept = {k: list(seed) for k, seed in self._kept.items()}
        return {"left": self._left, "kept": kept, "average": self.average.state()}

    def load_state(self, state: State) -> None:
        """Go on from there."""
        device = self._learner.alive.device
        self._left = state["left"]
        self._kept = {
            k: Kept(env_step, is_alive, [tensor.to(device) for tensor in tensors])
            for k, (env_step, is_alive, tensors) in state["kept"].items()
        }
        self.average.load_state(state["average"])

    @torch.no_grad()
    def restore(self) -> None:
        """Make the network the averaged one, and finished seeds what they were at their end."""
        self.average.apply()
        for k, kept in self._kept.items():
            for tensor, value in zip(self._tensors, kept.tensors, strict=True):
                tensor[k].copy_(value)
