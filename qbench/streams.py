"""Random numbers of a population: one generator per seed and purpose, drawn in fixed blocks."""

from collections.abc import Sequence

import numpy as np

from qbench.types import FloatArray, State


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The generator of one training seed for one purpose, each a stream of its own."""
    return np.random.default_rng([seed, *purpose.encode()])


def integer(seed: int, purpose: str) -> int:
    """A 31-bit integer seed for libraries that want one (torch, Gymnasium)."""
    return int(generator(seed, purpose).integers(2**31))


class Uniforms:
    """Uniform numbers in [0, 1) for S seeds, each from its own generator.

    They are drawn ahead in blocks of a fixed size, so that what seed k sees depends
    neither on the other seeds nor on how many numbers are asked for at once.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, *, block: int = 8192) -> None:
        self._generators = [generator(seed, purpose) for seed in seeds]
        self._block = block
        self._ahead = np.empty((len(seeds), 0))
        self._cursor = 0

    def next(self, count: int) -> FloatArray:
        """The next `count` numbers of every seed, [S, count] float64."""
        while self._ahead.shape[1] - self._cursor < count:
            self._draw_ahead()
        numbers = self._ahead[:, self._cursor : self._cursor + count]
        self._cursor += count
        return numbers

    def _draw_ahead(self) -> None:
        left = self._ahead[:, self._cursor :]
        num_left = left.shape[1]
        self._ahead = np.empty((len(left), num_left + self._block))
        self._ahead[:, :num_left] = left
        for row, own in zip(self._ahead, self._generators, strict=True):
            self._draw(own, row[num_left:])
        self._cursor = 0

    def state(self) -> State:
        """The generators, and what was drawn ahead and not used."""
        return {
            "generators": [g.bit_generator.state for g in self._generators],
            "ahead": self._ahead[:, self._cursor :],
        }

    def load_state(self, state: State) -> None:
        """Go on with the very next number."""
        for own, stored in zip(self._generators, state["generators"], strict=True):
            own.bit_generator.state = stored
        self._ahead, self._cursor = np.asarray(state["ahead"]), 0

    def _draw(self, generator: np.random.Generator, out: FloatArray) -> None:
        generator.random(out=out)


class Normals(Uniforms):
    """Standard normal numbers, drawn in the same way."""

    def _draw(self, generator: np.random.Generator, out: FloatArray) -> None:
        generator.standard_normal(out=out)
