"""Replay as a LightningDataModule: one item per chunk, a handle to draw minibatches from."""

from torch.utils.data import DataLoader, Dataset

from qbench.replay import ReplaySampler
from qbench.train.lightning import LightningDataModule


class Chunks(Dataset[ReplaySampler]):
    """The same sampler once per chunk; a sized dataset, because an unsized one is prefetched."""

    def __init__(self, sampler: ReplaySampler, num_chunks: int) -> None:
        self._sampler = sampler
        self._num_chunks = num_chunks

    def __len__(self) -> int:
        return self._num_chunks

    def __getitem__(self, index: int) -> ReplaySampler:
        return self._sampler


class ReplayDataModule(LightningDataModule):
    """What `training_step` draws from.

    Args:
        sampler: draws minibatches from the replay.
        num_chunks: chunks of the whole training.
    """

    def __init__(self, *, sampler: ReplaySampler, num_chunks: int) -> None:
        super().__init__()
        self._chunks = Chunks(sampler, num_chunks)

    def train_dataloader(self) -> DataLoader[ReplaySampler]:
        """One item per chunk, handed on as it is."""
        return DataLoader(self._chunks, batch_size=None, num_workers=0)


def chunk_stops(total: int, cycle: int, intervals: list[int]) -> list[int]:
    """Env steps at which chunks end: the first cycle's end at or after every event.

    Args:
        total: budget in env steps.
        cycle: env steps of one cycle.
        intervals: of chunks, logs, evaluations and checkpoints; 0: never.
    """
    events = {step for n in intervals if n > 0 for step in range(n, total, n)}
    return sorted({min(-(-step // cycle) * cycle, total) for step in events} | {total})
