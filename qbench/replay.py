"""Experience replay for a population."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from qbench.streams import Uniforms
from qbench.types import EnvSpec, FloatArray, IntArray, Transition


def row_bytes(obs_shape: Sequence[int]) -> int:
    """Bytes of one stored transition: obs, next_obs, action, reward, terminated as float32."""
    return 4 * (2 * int(np.prod(obs_shape)) + 3)


class ReplayBuffer:
    """The last `capacity` transitions of each of S seeds, uniform sampling (Mnih et al. 2015).

    A transition is one packed float32 row, so that a minibatch is one gather; actions are
    small integers, which float32 holds exactly.

    Args:
        capacity: transitions per seed.
        num_seeds: S.
        spec: the env's observation shape.
        device: where minibatches are wanted; the rows stay in main memory.
    """

    def __init__(
        self, *, capacity: int, num_seeds: int, spec: EnvSpec, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.size = 0
        self._obs_shape = spec.obs_shape
        self._obs_size = int(np.prod(spec.obs_shape))
        self._cursor = 0
        self._device = device
        # Zeros, not empty: the pages are then in the peak from the start or not at all.
        self._rows = np.zeros((num_seeds, capacity, row_bytes(spec.obs_shape) // 4), np.float32)
        self._offsets = (np.arange(num_seeds) * capacity)[:, None]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole buffer, all seeds."""
        return self._rows.nbytes

    def add(
        self,
        obs: FloatArray,
        action: IntArray,
        reward: FloatArray,
        terminated: npt.NDArray[np.bool_],
        next_obs: FloatArray,
    ) -> None:
        """Store one transition of every seed; all arguments have the leading axis S."""
        size = self._obs_size
        rows = self._rows[:, self._cursor]
        rows[:, :size] = obs.reshape(-1, size)
        rows[:, size : 2 * size] = next_obs.reshape(-1, size)
        rows[:, -3] = action
        rows[:, -2] = reward
        rows[:, -1] = terminated
        self._cursor = (self._cursor + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def gather(self, index: IntArray) -> Transition:
        """The transitions at `index` [..., S, B], each in [0, size) of its seed's own rows."""
        flat = torch.from_numpy(self._rows.reshape(-1, self._rows.shape[-1]))
        chosen = torch.from_numpy((index + self._offsets).reshape(-1))
        rows = flat.index_select(0, chosen).view(*index.shape, -1).to(self._device)
        obs, next_obs, rest = rows.split([self._obs_size, self._obs_size, 3], dim=-1)
        shape = (*index.shape, *self._obs_shape)
        return Transition(
            obs=obs.view(shape),
            action=rest[..., 0].long(),
            reward=rest[..., 1],
            terminated=rest[..., 2].bool(),
            next_obs=next_obs.view(shape),
        )

    def observations(self, k: int, index: IntArray) -> FloatArray:
        """Observations [N, *obs_shape] of seed k at `index` [N]."""
        return self._rows[k, index, : self._obs_size].reshape(-1, *self._obs_shape)


class ReplaySampler:
    """Draws minibatches: each seed from its own rows, by its own random numbers.

    Args:
        replay: what is drawn from.
        uniforms: `batch_size` numbers are drawn per seed and minibatch.
        batch_size: B.
    """

    def __init__(self, *, replay: ReplayBuffer, uniforms: Uniforms, batch_size: int) -> None:
        self._replay = replay
        self._uniforms = uniforms
        self._batch_size = batch_size

    def sample(self, num_batches: int) -> list[Transition]:
        """`num_batches` minibatches [S, B], gathered at once, drawn one after the other."""
        u = np.stack([self._uniforms.next(self._batch_size) for _ in range(num_batches)])
        many = self._replay.gather((u * self._replay.size).astype(np.int64))
        return [Transition(*(field[g] for field in many)) for g in range(num_batches)]
