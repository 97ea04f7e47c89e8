"""Greedy episodes on held-out env seeds, for any callable policy."""

from qbench.evaluate.play import EVAL_ENV_SEED, Played, greedy, play

__all__ = ["EVAL_ENV_SEED", "Played", "greedy", "play"]
