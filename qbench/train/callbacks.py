"""Events on `env_step`: records, evaluations, checkpoints, progress."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from qbench import records
from qbench.evaluate import Played, play
from qbench.schedule import crossed
from qbench.train import ledger
from qbench.train.build import Parts
from qbench.train.graphs import RecordedUpdates
from qbench.train.lightning import Callback, Trainer
from qbench.train.module import PopulationModule
from qbench.train.spent import Spent
from qbench.train.stop import Stop, Stopped
from qbench.train.wandb_log import WandbRun
from qbench.types import ActionArray, ObsArray, Policy

Rows = list[dict[str, Any]]


class Recorder:
    """Where rows go: records.jsonl and Weights & Biases get the same dicts.

    Args:
        run_dir: the cell's folder.
        wandb_run: receives every batch of rows.
        spent: the clock, which counts what earlier attempts took.
    """

    def __init__(self, run_dir: Path, wandb_run: WandbRun, spent: Spent) -> None:
        self._run_dir = run_dir
        self._wandb_run = wandb_run
        self._spent = spent

    def write(self, rows: Rows) -> None:
        """Append rows; each gets `wall_s`."""
        wall_s = round(self._spent.wall_s, 3)
        rows = [{**row, "wall_s": wall_s} for row in rows]
        records.append_records(self._run_dir, rows)
        self._wandb_run.log(rows)


class OnEnvStep(Callback):
    """A callback that fires at the first chunk end at or after every multiple of an interval.

    Args:
        interval: env steps; 0: never.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Fire if the chunk that ended crossed a multiple of the interval."""
        if crossed(self._interval, pl_module.env_step_before, pl_module.collector.env_step):
            self.fire(trainer, pl_module)

    def fire(self, trainer: Trainer, module: PopulationModule) -> None:
        """The event."""
        raise AssertionError("a subclass says what happens")


class LogTraining(OnEnvStep):
    """Rows of kind `train` (means since the last log) and `episode`."""

    def __init__(self, interval: int, parts: Parts, recorder: Recorder) -> None:
        super().__init__(interval)
        self._parts = parts
        self._recorder = recorder

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write what has come since the last log."""
        self.fire(trainer, pl_module)

    def fire(self, trainer: Trainer, module: PopulationModule) -> None:
        """Write the rows."""
        self._recorder.write(self._episode_rows(module) + self._train_rows(module))

    def _episode_rows(self, module: PopulationModule) -> Rows:
        return [
            {
                "kind": "episode",
                "seed": self._parts.seeds[episode.seed_index],
                "env_step": episode.env_step,
                "episode_return": episode.episode_return,
                "episode_length": episode.length,
            }
            for episode in module.take_episodes()
        ]

    def _train_rows(self, module: PopulationModule) -> Rows:
        env_step = module.collector.env_step
        metrics = module.take_metrics()
        if not metrics:
            return []
        alive = self._parts.learner.alive.tolist()
        shared = {
            "env_step": env_step,
            **self._parts.explore.rates(env_step),
            "learning_rate": self._parts.loop.learning_rate(env_step),
        }
        return [
            {"kind": "train", "seed": seed, **shared, "diverged": not alive[k]}
            | {name: values[k] for name, values in metrics.items()}
            for k, seed in enumerate(self._parts.seeds)
            if module.snapshots.is_running(k)
        ]


class EvaluateInterim(OnEnvStep):
    """Rows of kind `eval`: greedy episodes of the (averaged) network as it trains."""

    def __init__(self, interval: int, num_episodes: int, parts: Parts, recorder: Recorder) -> None:
        super().__init__(interval)
        self._num_episodes = num_episodes
        self._parts = parts
        self._recorder = recorder

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Play what was due when the training was stopped."""
        if pl_module.owes_evaluation:
            self.fire(trainer, pl_module)

    def fire(self, trainer: Trainer, module: PopulationModule) -> None:
        """Play and write the rows."""
        module.owes_evaluation = True
        with module.snapshots.average.applied():
            played = play(
                stoppable(self._policy, module.stop),
                self._parts.env.make,
                num_seeds=len(self._parts.seeds),
                num_episodes=self._num_episodes,
            )
        env_steps = [module.collector.env_step] * len(self._parts.seeds)
        rows = eval_rows("eval", self._parts.seeds, env_steps, played)
        self._recorder.write([r for k, r in enumerate(rows) if module.snapshots.is_running(k)])
        module.owes_evaluation = False

    def _policy(self, obs: ObsArray) -> ActionArray:
        device = self._parts.learner.alive.device
        return self._parts.learner.act(torch.from_numpy(obs).to(device)).cpu().numpy()


def stoppable(policy: Policy, stop: Stop) -> Policy:
    """The same policy, which leaves a game half played when asked to stop."""

    def act(obs: ObsArray, /) -> ActionArray:
        stop.check()
        return policy(obs)

    return act


def eval_rows(kind: str, seeds: list[int], env_steps: list[int], played: Played) -> Rows:
    """One row per seed of greedy episodes."""
    return [
        {
            "kind": kind,
            "seed": seed,
            "env_step": env_step,
            "eval_returns": returns.tolist(),
            "eval_lengths": lengths.tolist(),
            "eval_return_mean": float(returns.mean()),
        }
        for seed, env_step, returns, lengths in zip(
            seeds, env_steps, played.returns, played.lengths, strict=True
        )
    ]


class Checkpoint(OnEnvStep):
    """Saves where the training stands: now and then, and when it is asked to stop.

    Args:
        interval: env steps.
        save: saves it.
    """

    def __init__(self, interval: int, save: Callable[[], None]) -> None:
        super().__init__(interval)
        self._save = save

    def fire(self, trainer: Trainer, module: PopulationModule) -> None:
        """Save."""
        self._save()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save what was stopped in good order; nothing else is whole."""
        if isinstance(exception, Stopped):
            self._save()


class Finish(Callback):
    """Makes the networks those that are scored: averaged, finished seeds as they were."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Restore them."""
        pl_module.snapshots.restore()
        pl_module.learner.network.eval()


class TrimHeap(OnEnvStep):
    """Keeps the peak memory about what training holds, not what it has freed."""

    def __init__(self) -> None:
        super().__init__(1000)  # 0.2 % of a training's time; LunarLander then stays within 4 %.

    def fire(self, trainer: Trainer, module: PopulationModule) -> None:
        """Trim."""
        ledger.trim_heap()


class MeasureMemory(Callback):
    """The ledger at the end of training, before Lightning takes the module off its device."""

    def __init__(self, parts: Parts, spent: Spent) -> None:
        self._parts = parts
        self._spent = spent
        self.memory_bytes: ledger.Bytes = {}
        self.peak_rss_bytes = 0

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Measure."""
        parts = self._parts
        # Storing observations and scoring come later: their buffers are no cost of training.
        self.peak_rss_bytes = ledger.peak_rss_bytes()
        self._spent.end_training()
        if isinstance(parts.update, RecordedUpdates):
            parts.update.calls.forget()  # Their memory is wanted for measuring.
        with pl_module.autocast():
            self.memory_bytes = ledger.measure(parts.learner, parts.replay, parts.sampler)
        copies = pl_module.snapshots.average.num_bytes + parts.collector.policy.num_bytes
        self.memory_bytes["other"] += copies // len(parts.seeds)


class Progress(Callback):
    """One line that speaks RL; nothing where stderr is not a terminal."""

    def __init__(self, parts: Parts, total_env_steps: int, label: str) -> None:
        self._parts = parts
        self._bar = tqdm(
            total=total_env_steps,
            desc=label,
            unit=" env steps",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._recent: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the chunk."""
        if self._bar.disable:
            return
        env_step = pl_module.collector.env_step
        recent = [e.episode_return for e in pl_module.episodes[-20:]] or self._recent
        self._recent = recent
        rates = self._parts.explore.rates(env_step)
        self._bar.set_postfix_str(
            f"return {sum(recent) / max(len(recent), 1):.0f}, loss {pl_module.mean_loss:.3g}, "
            + ", ".join(f"{name} {value:.2f}" for name, value in rates.items()),
            refresh=False,
        )
        self._bar.update(env_step - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave the line as it is."""
        self._bar.close()
