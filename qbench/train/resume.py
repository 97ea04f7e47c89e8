"""Saving where a training stands, and going on from there bit for bit."""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from qbench.collect import NotWhereItWas
from qbench.train import cells, checkpoint, points
from qbench.train.build import Parts
from qbench.train.checkpoint import Damaged
from qbench.train.module import PopulationModule
from qbench.train.spent import Spent
from qbench.train.wandb_log import WandbRun
from qbench.types import State, Stateful


class Standing(NamedTuple):
    """What was found of an earlier attempt at a cell."""

    state: State
    folder: Path | None
    """Where its replay lies; None: the training has ended, and `state` holds its agents."""

    @property
    def seeds(self) -> list[int]:
        """The seeds that were trained."""
        return list(self.state["seeds"])


def find(run_dir: Path, cfg: DictConfig) -> Standing | None:
    """The newest whole checkpoint of a cell; says of every other one why it is not used."""
    ended = _read(points.last(run_dir), run_dir, cfg) if points.last(run_dir).exists() else None
    if ended is not None:
        return Standing(ended, None)
    for point in points.find(run_dir):
        state = _read(point.folder / "state.pt", run_dir, cfg, replay=point.folder / "replay.npz")
        if state is not None:
            return Standing(state, point.folder)
    return None


def _read(path: Path, run_dir: Path, cfg: DictConfig, replay: Path | None = None) -> State | None:
    try:
        state = checkpoint.read(path)
        if replay is not None:
            checkpoint.check(replay)
        _check_origin(state, run_dir, cfg)
    except Damaged as fault:
        print(f"{path} {fault}: it is not continued from.", flush=True)
        return None
    return state


def _check_origin(state: State, run_dir: Path, cfg: DictConfig) -> None:
    if state.get("version") != checkpoint.VERSION:
        raise Damaged("is of another version of qbench")
    if state["settings"] != _digest(cfg):
        raise Damaged("is of other settings")
    if "records_bytes" not in state:
        raise Damaged("holds the seeds of several trainings, whose summary is gone")
    path = run_dir / "records.jsonl"
    length = state["records_bytes"]
    if length and (not path.exists() or _sum_of(path, length) != state["records_sum"]):
        raise Damaged("does not belong to the records.jsonl beside it")


def _digest(cfg: DictConfig) -> str:
    content = json.dumps(cells.identity(cfg), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _sum_of(path: Path, length: int) -> int:
    """Checksum of the first bytes of a file."""
    total = 0
    with path.open("rb") as file:
        while length and (part := file.read(min(length, 2**20))):
            total = zlib.crc32(part, total)
            length -= len(part)
    return total if length == 0 else -1


def cut_records(run_dir: Path, standing: Standing | None) -> None:
    """Drop the rows that were written after a checkpoint: they come again. Without one, all."""
    path = run_dir / "records.jsonl"
    if standing is None:
        path.unlink(missing_ok=True)
    elif path.exists():
        os.truncate(path, standing.state["records_bytes"])


class Keeper:
    """Saves a population in training, and puts one back.

    Args:
        cfg: of the cell.
        run_dir: its folder.
        parts: what is trained.
        module: the loop.
        spent: the clock.
        wandb_run: whose id is kept.
    """

    def __init__(
        self,
        cfg: DictConfig,
        run_dir: Path,
        parts: Parts,
        module: PopulationModule,
        spent: Spent,
        wandb_run: WandbRun,
    ) -> None:
        self._cfg = cfg
        self._run_dir = run_dir
        self._parts = parts
        self._wandb_run = wandb_run
        self.spent = spent
        # In the order of loading: tensors after the phase they are of, what acts after what it
        # follows, and last the module, which counts the chunks that are left.
        self._stateful: dict[str, Stateful] = {
            "phases": parts.phases,
            "learner": parts.learner,
            "replay": parts.replay,
            "sampler": parts.sampler,
            "explore": parts.explore,
            "collector": parts.collector,
            "module": module,
            "spent": spent,
        }
        self._fault = self._missing_state()
        if self._fault:
            print(f"This cell cannot be continued if it is stopped: {self._fault}.", flush=True)

    def _missing_state(self) -> str | None:
        """Why there is no saving this; a class from elsewhere may have no state to tell."""
        try:
            self._parts.replay.arrays()
            for part in self._stateful.values():
                part.state()
        except AttributeError as error:
            return f"{error}"
        return None

    def save(self) -> None:
        """Save it all; a disk that has no room does not end the training."""
        if self._fault:
            return
        env_step = self._parts.collector.env_step
        state = self.header() | {name: part.state() for name, part in self._stateful.items()}
        try:
            with points.new(self._run_dir, env_step) as folder:
                checkpoint.write(folder / "state.pt", state)
                checkpoint.write_arrays(folder / "replay.npz", self._parts.replay.arrays())
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            print(
                f"No checkpoint at env step {env_step}: {reason}. An older one stays.", flush=True
            )

    def header(self) -> State:
        """What tells whose state it is."""
        path = self._run_dir / "records.jsonl"
        length = path.stat().st_size if path.exists() else 0
        return {
            "seeds": self._parts.seeds,
            "settings": _digest(self._cfg),
            "records_bytes": length,
            "records_sum": _sum_of(path, length) if length else 0,
            "wandb_id": self._wandb_run.id,
        }

    def load(self, standing: Standing) -> None:
        """Put a population back as it was.

        Raises:
            NotWhereItWas: an env cannot be.
            Damaged: the replay is another one.
        """
        assert standing.folder is not None
        for name, part in self._stateful.items():
            part.load_state(standing.state[name])
        checkpoint.read_arrays(standing.folder / "replay.npz", self._parts.replay.arrays())
        self.spent.continued_at.append(self._parts.collector.env_step)


REFUSALS = (NotWhereItWas, Damaged)
"""What `Keeper.load` raises where a training has to begin anew."""
