"""Schedules in env steps: pure functions of the env step of one seed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from `start` at env step 0 to `end` at `env_steps`, constant after it."""

    start: float
    end: float
    env_steps: int

    def __call__(self, env_step: int) -> float:
        """Value at `env_step`; Mnih et al. (2015), Methods, anneal epsilon in this way."""
        if env_step >= self.env_steps:
            return self.end
        return self.start + (self.end - self.start) * env_step / self.env_steps


def crossed(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of `interval` lies in (before, after]; an interval of 0 has none."""
    return interval > 0 and after // interval > before // interval
