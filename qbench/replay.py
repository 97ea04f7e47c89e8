"""Experience replay for a population."""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from qbench.streams import Uniforms
from qbench.types import (
    ActionArray,
    EnvSpec,
    FloatArray,
    IntArray,
    ObsArray,
    State,
    Stateful,
    Transition,
)


class Replay(Stateful, Protocol):
    """The last transitions of each of S seeds.

    What is large is no part of `state`: `arrays` gives it.
    """

    capacity: int
    size: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole buffer, all seeds."""
        ...

    def add(
        self,
        obs: ObsArray,
        action: ActionArray,
        reward: FloatArray,
        terminated: npt.NDArray[np.bool_],
        next_obs: ObsArray,
        ended: npt.NDArray[np.bool_],
    ) -> None:
        """Store one transition of every seed; all arguments have the leading axis S.

        `ended`: the next transition starts another episode.
        """
        ...

    def gather(self, index: IntArray) -> Transition:
        """The transitions at `index` [..., S, B], each in [0, size) of its seed's own."""
        ...

    def observations(self, k: int, index: IntArray) -> ObsArray:
        """Observations [N, *obs_shape] of seed k at `index` [N]."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Views [S, ...] of what is filled; after `load_state` they wait for it."""
        ...


def make_replay(
    *, capacity: int, dtype: str, num_seeds: int, spec: EnvSpec, device: torch.device
) -> Replay:
    """The replay that suits the env: images are stored as frames, vectors as rows of `dtype`."""
    kind: type[ReplayBuffer | CodedReplay | FrameReplay] = FrameReplay
    if spec.obs_high is None:
        kind = CodedReplay if dtype == "uint8" else ReplayBuffer
    return kind(capacity=capacity, num_seeds=num_seeds, spec=spec, device=device)


class ReplayBuffer:
    """The last `capacity` transitions of each of S seeds, uniform sampling (Mnih et al. 2015).

    A transition is one packed float32 row, so that a minibatch is one gather; discrete
    actions are small integers, which float32 holds exactly.

    Args:
        capacity: transitions per seed.
        num_seeds: S.
        spec: the shapes of observations and actions.
        device: where minibatches are wanted. A GPU has a copy of the rows, and gathers them itself.
    """

    def __init__(
        self, *, capacity: int, num_seeds: int, spec: EnvSpec, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.size = 0
        self._spec = spec
        self._columns = [int(np.prod(spec.obs_shape))] * 2 + [int(np.prod(spec.action_shape)), 1, 1]
        self._cursor = 0
        # Zeros, not empty: the pages are then in the peak from the start or not at all.
        self._rows = np.zeros((num_seeds, capacity, sum(self._columns)), np.float32)
        self._stored = torch.from_numpy(self._rows)
        self._gathered = self._stored.to(device)  # the very rows on a CPU
        self._is_elsewhere = self._gathered is not self._stored
        self._is_copied = True
        self._offsets = (np.arange(num_seeds) * capacity)[:, None]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole buffer, all seeds, a GPU's copy included."""
        return self._rows.nbytes + (self._gathered.nbytes if self._is_elsewhere else 0)

    def add(
        self,
        obs: ObsArray,
        action: ActionArray,
        reward: FloatArray,
        terminated: npt.NDArray[np.bool_],
        next_obs: ObsArray,
        ended: npt.NDArray[np.bool_],
    ) -> None:
        """Store one transition of every seed; all arguments have the leading axis S."""
        size, num_seeds = self._columns[0], len(action)
        rows = self._rows[:, self._cursor]
        rows[:, :size] = obs.reshape(num_seeds, size)
        rows[:, size : 2 * size] = next_obs.reshape(num_seeds, size)
        rows[:, 2 * size : -2] = action.reshape(num_seeds, -1)
        rows[:, -2] = reward
        rows[:, -1] = terminated
        if self._is_elsewhere:
            self._gathered[:, self._cursor] = torch.from_numpy(rows).to(self._gathered.device)
        self._cursor = (self._cursor + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def gather(self, index: IntArray) -> Transition:
        """The transitions at `index` [..., S, B], each in [0, size) of its seed's own rows."""
        if not self._is_copied:
            self._gathered.copy_(self._stored)
            self._is_copied = True
        flat = self._gathered.flatten(0, 1)
        chosen = torch.from_numpy((index + self._offsets).reshape(-1)).to(flat.device)
        rows = flat.index_select(0, chosen).view(*index.shape, -1)
        obs, next_obs, action, reward, terminated = rows.split(self._columns, dim=-1)
        shape = (*index.shape, *self._spec.obs_shape)
        return Transition(
            obs=obs.view(shape),
            action=action[..., 0].long() if self._spec.num_actions is not None else action,
            reward=reward[..., 0],
            terminated=terminated[..., 0].bool(),
            next_obs=next_obs.view(shape),
        )

    def state(self) -> State:
        """How far it is filled."""
        return {"size": self.size, "cursor": self._cursor}

    def load_state(self, state: State) -> None:
        """As far filled, with rows that have yet to come."""
        self.size, self._cursor = state["size"], state["cursor"]
        self._is_copied = not self._is_elsewhere

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The rows that are filled [S, size, columns]."""
        return {"rows": self._rows[:, : self.size]}

    def observations(self, k: int, index: IntArray) -> ObsArray:
        """Observations [N, *obs_shape] of seed k at `index` [N]."""
        return self._rows[k, index, : self._columns[0]].reshape(-1, *self._spec.obs_shape)


class CodedReplay:
    """Replay of vectors whose observations are stored as bytes: x = low + step code.

    Every seed and feature has a grid of its own. It begins at the first value and is widened
    by the power of two that takes in a value outside of it, towards that value; what is stored
    moves to the wider grid. No value is clamped, and none is off by more than one step of the
    grid as it is: half a step from its last rounding, a quarter from the one before, and so on.

    Args:
        capacity: transitions per seed.
        num_seeds: S.
        spec: the shapes of observations and actions.
        device: where minibatches are wanted; the codes stay in main memory.
    """

    def __init__(
        self, *, capacity: int, num_seeds: int, spec: EnvSpec, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.size = 0
        self._spec = spec
        self._device = device
        self._cursor = 0
        size, action = int(np.prod(spec.obs_shape)), int(np.prod(spec.action_shape))
        self._codes = np.zeros((num_seeds, capacity, 2, size), np.uint8)  # obs and next_obs
        self._rest = np.zeros((num_seeds, capacity, action + 2), np.float32)
        self._low = np.zeros((num_seeds, size))
        self._step = np.zeros((num_seeds, size))
        self._seeds = np.arange(num_seeds)[:, None]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole buffer, all seeds, grids included."""
        return sum(a.nbytes for a in (self._codes, self._rest, self._low, self._step))

    def add(
        self,
        obs: ObsArray,
        action: ActionArray,
        reward: FloatArray,
        terminated: npt.NDArray[np.bool_],
        next_obs: ObsArray,
        ended: npt.NDArray[np.bool_],
    ) -> None:
        """Store one transition of every seed; all arguments have the leading axis S.

        Raises:
            ValueError: an observation is not finite; there is no code for it.
        """
        num_seeds = len(action)
        both = np.stack([x.reshape(num_seeds, -1) for x in (obs, next_obs)], axis=1)
        self._take_in(both.astype(np.float64))
        codes = np.rint((both - self._low[:, None]) / self._step[:, None])
        self._codes[:, self._cursor] = codes.clip(0, 255)
        rest = self._rest[:, self._cursor]
        rest[:, :-2] = action.reshape(num_seeds, -1)
        rest[:, -2], rest[:, -1] = reward, terminated
        self._cursor = (self._cursor + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def state(self) -> State:
        """How far it is filled, and the grids."""
        return {
            "size": self.size,
            "cursor": self._cursor,
            "low": self._low,
            "step": self._step,
        }

    def load_state(self, state: State) -> None:
        """As far filled, with codes that have yet to come."""
        self.size, self._cursor = state["size"], state["cursor"]
        self._low, self._step = np.asarray(state["low"]), np.asarray(state["step"])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Codes and the rest of what is filled."""
        return {"codes": self._codes[:, : self.size], "rest": self._rest[:, : self.size]}

    def _take_in(self, values: FloatArray) -> None:
        """Widen the grids [S, F] that do not hold `values` [S, 2, F]."""
        if not np.isfinite(values).all():
            raise ValueError("replay.dtype=uint8 has no code for an observation that is not finite")
        low, high = values.min(1), values.max(1)
        if not self.size:
            # A thousandth of the value, or of 1, is the first width of a grid.
            self._low = low.copy()
            self._step = np.maximum(np.abs(low), 1.0) * (2.0**-10 / 255)
        top = self._low + 255 * self._step
        for k, f in np.argwhere((low < self._low) | (high > top)):
            self._widen(k, f, float(low[k, f]), float(high[k, f]))

    def _widen(self, k: int, f: int, low: float, high: float) -> None:
        codes = self._codes[k, :, :, f]  # rows past `size` hold zeros, and are written before read
        width = 255 * self._step[k, f]
        if high > self._low[k, f] + width:
            doublings = math.ceil(math.log2((high - self._low[k, f]) / width))
            codes[:] = np.rint(codes * 2.0**-doublings)
            width *= 2.0**doublings
        top = self._low[k, f] + width
        if low < self._low[k, f]:
            doublings = math.ceil(math.log2((top - low) / width))
            codes[:] = 255 - np.rint((255 - codes) * 2.0**-doublings)
            width *= 2.0**doublings
            self._low[k, f] = top - width
        self._step[k, f] = width / 255

    def gather(self, index: IntArray) -> Transition:
        """The transitions at `index` [..., S, B], each in [0, size) of its seed's own."""
        seeds = np.broadcast_to(self._seeds, index.shape)
        codes = torch.from_numpy(self._codes[seeds, index]).to(self._device)
        low, step = (
            torch.from_numpy(a.astype(np.float32)).to(self._device)[:, None, None]
            for a in (self._low, self._step)
        )
        both = codes.to(torch.float32).mul_(step).add_(low)  # [..., S, B, 2, F]
        rest = torch.from_numpy(self._rest[seeds, index]).to(self._device)
        action = rest[..., :-2]
        shape = (*index.shape, *self._spec.obs_shape)
        return Transition(
            obs=both[..., 0, :].reshape(shape),
            action=action[..., 0].long() if self._spec.num_actions is not None else action,
            reward=rest[..., -2],
            terminated=rest[..., -1].bool(),
            next_obs=both[..., 1, :].reshape(shape),
        )

    def observations(self, k: int, index: IntArray) -> ObsArray:
        """Observations [N, *obs_shape] of seed k at `index` [N], as minibatches have them."""
        codes = self._codes[k, index, 0].astype(np.float32)
        obs = codes * self._step[k].astype(np.float32) + self._low[k].astype(np.float32)
        return obs.reshape(-1, *self._spec.obs_shape)


class FrameReplay:
    """Replay of stacked images that stores every frame once and stacks at sampling.

    Slot t of a ring holds the newest frame of transition t's `obs`; that of its `next_obs`
    is in slot t + 1, unless t ended an episode: then slot t + 1 belongs to the next episode,
    and the final frame is kept aside. A stack repeats its episode's first frame where the
    episode is younger than the stack, as Gymnasium's FrameStackObservation does. The ring
    has `frame_stack` slots more than transitions, so that the oldest stacks stay whole.

    Args:
        capacity: transitions per seed.
        num_seeds: S.
        spec: shapes; obs_shape is [frame_stack * planes, height, width], uint8.
        device: where minibatches are wanted, as bytes; the frames stay in main memory.
    """

    def __init__(
        self, *, capacity: int, num_seeds: int, spec: EnvSpec, device: torch.device
    ) -> None:
        self.capacity = capacity
        self.size = 0
        self._spec = spec
        self._stack = spec.frame_stack
        self._device = device
        self._count = 0  # transitions ever stored
        self._slots = slots = capacity + self._stack
        channels, *image = spec.obs_shape
        self._planes = channels // self._stack
        self._frames = np.zeros((num_seeds, slots, self._planes, *image), np.uint8)
        dtype = np.int32 if spec.num_actions is not None else np.float32
        self._actions = np.zeros((num_seeds, slots, *spec.action_shape), dtype)
        self._rewards = np.zeros((num_seeds, slots), np.float32)
        self._terminated = np.zeros((num_seeds, slots), np.bool_)
        self._ages = np.zeros((num_seeds, slots), np.uint8)  # frames before this one, to the stack
        self._ended = np.zeros((num_seeds, slots), np.bool_)
        self._finals: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        self._age = np.zeros(num_seeds, np.int64)

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole buffer, all seeds, final frames included."""
        finals = sum(frame.nbytes for frame in self._finals.values())
        return sum(array.nbytes for array in self._rings().values()) + finals

    def _rings(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that has one entry per slot."""
        return {
            "frames": self._frames,
            "actions": self._actions,
            "rewards": self._rewards,
            "terminated": self._terminated,
            "ages": self._ages,
            "ended": self._ended,
        }

    def add(
        self,
        obs: ObsArray,
        action: ActionArray,
        reward: FloatArray,
        terminated: npt.NDArray[np.bool_],
        next_obs: ObsArray,
        ended: npt.NDArray[np.bool_],
    ) -> None:
        """Store one transition of every seed; all arguments have the leading axis S."""
        slot, after = self._count % self._slots, (self._count + 1) % self._slots
        self._forget(slot)
        self._frames[:, slot] = obs[:, -self._planes :]
        self._frames[:, after] = next_obs[:, -self._planes :]
        self._actions[:, slot] = action
        self._rewards[:, slot] = reward
        self._terminated[:, slot] = terminated
        self._ages[:, slot] = np.minimum(self._age, self._stack - 1)
        self._ended[:, slot] = ended
        for k in np.flatnonzero(ended):
            self._finals[int(k), slot] = next_obs[k, -self._planes :].copy()
        self._age = np.where(ended, 0, self._age + 1)
        self._count += 1
        self.size = min(self.size + 1, self.capacity)

    def state(self) -> State:
        """How far it is filled, and the frames that are kept aside."""
        return {
            "size": self.size,
            "count": self._count,
            "age": self._age,
            "final_keys": [list(key) for key in self._finals],
            "finals": [torch.from_numpy(frame) for frame in self._finals.values()],
        }

    def load_state(self, state: State) -> None:
        """As far filled, with slots that have yet to come."""
        self.size, self._count = state["size"], state["count"]
        self._age = np.asarray(state["age"])
        frames = [np.asarray(frame) for frame in state["finals"]]
        keys = [(k, slot) for k, slot in state["final_keys"]]
        self._finals = dict(zip(keys, frames, strict=True))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The slots that were ever filled [S, N, ...]; the newest holds a next frame alone."""
        filled = min(self._count + 1, self._slots)
        return {name: ring[:, :filled] for name, ring in self._rings().items()}

    def _forget(self, slot: int) -> None:
        for k in np.flatnonzero(self._ended[:, slot]):
            del self._finals[int(k), slot]

    def _window(self, seed: IntArray, t: IntArray) -> npt.NDArray[np.uint8]:
        """Frames of obs and next_obs in a row, [..., stack + 1, planes, height, width]."""
        slot = t % self._slots
        steps = np.arange(1 - self._stack, 2)
        start = -self._ages[seed, slot].astype(np.int64)
        back = np.maximum(steps, start[..., None])
        window = self._frames[seed[..., None], (t[..., None] + back) % self._slots]
        for where in zip(*np.nonzero(self._ended[seed, slot]), strict=True):
            window[(*where, -1)] = self._finals[int(seed[where]), int(slot[where])]
        return window

    def gather(self, index: IntArray) -> Transition:
        """The transitions at `index` [..., S, B], counted from the oldest."""
        seed = np.broadcast_to(np.arange(len(self._age))[:, None], index.shape)
        t = index + (self._count - self.size)
        slot = t % self._slots
        frames = torch.from_numpy(self._window(seed, t)).to(self._device)
        shape = (*index.shape, *self._spec.obs_shape)

        def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array[seed, slot]).to(self._device)

        action = tensor(self._actions)
        axis = index.ndim
        return Transition(
            obs=frames.narrow(axis, 0, self._stack).reshape(shape),
            action=action.long() if self._spec.num_actions is not None else action,
            reward=tensor(self._rewards),
            terminated=tensor(self._terminated),
            next_obs=frames.narrow(axis, 1, self._stack).reshape(shape),
        )

    def observations(self, k: int, index: IntArray) -> ObsArray:
        """Observations [N, *obs_shape] of seed k at `index` [N], counted from the oldest."""
        window = self._window(np.full(index.shape, k), index + (self._count - self.size))
        return window[:, : self._stack].reshape(-1, *self._spec.obs_shape)


class ReplaySampler:
    """Draws minibatches: each seed from its own rows, by its own random numbers.

    Args:
        replay: what is drawn from.
        uniforms: `batch_size` numbers are drawn per seed and minibatch.
        batch_size: B.
    """

    def __init__(self, *, replay: Replay, uniforms: Uniforms, batch_size: int) -> None:
        self._replay = replay
        self._uniforms = uniforms
        self._batch_size = batch_size

    def state(self) -> State:
        """The random numbers to come."""
        return self._uniforms.state()

    def load_state(self, state: State) -> None:
        """Go on with them."""
        self._uniforms.load_state(state)

    def sample(self, num_batches: int) -> list[Transition]:
        """`num_batches` minibatches [S, B], gathered at once, drawn one after the other."""
        u = [self._uniforms.next(self._batch_size) for _ in range(num_batches)]
        if num_batches == 1:  # Five views less.
            return [self._gather(u[0])]
        many = self._gather(np.stack(u))
        return [Transition(*(field[g] for field in many)) for g in range(num_batches)]

    def _gather(self, u: FloatArray) -> Transition:
        return self._replay.gather((u * self._replay.size).astype(np.int64))
