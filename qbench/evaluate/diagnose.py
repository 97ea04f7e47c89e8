"""What quantization does to a trained agent: which actions, by how much, through which layer.

The quantized agent is the network as it was trained or calibrated, fake-quantized; the float
agent has the same weights, unquantized.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from qbench import layers
from qbench.deploy.population import BATCH, Population, load_observations
from qbench.evaluate.play import greedy, play
from qbench.types import EnvSpec, FloatArray, ObsArray

NUM_ROWS = 2000
"""Of the 10,000 stored observations: a share of 1 % is then known to +- 0.2 %."""
NOISE_LEVELS = (0.0, 0.05, 0.1, 0.2)
"""Standard deviations of the noise, in those of each feature over the agent's own replay."""
NOISE_SEED = 0


def measure(
    population: Population, k: int, spec: EnvSpec, num_rows: int = NUM_ROWS
) -> dict[str, Any]:
    """Compare seed k's agents on its own observations.

    Returns:
        `rows`, the fields of `compare`, and `layers`: for each layer in the order of execution its
        `name` and the fields of `compare` with that layer alone quantized.
    """
    obs = load_observations(population.observations[k])
    obs = obs[:: max(1, len(obs) // num_rows)][:num_rows]
    plain = outputs(population.plain, k, obs)
    whole = outputs(population.prepared, k, obs)
    alone = {
        name: compare(plain, outputs(module, k, obs), spec)
        for name, module in one_at_a_time(population.plain, population.prepared)
    }
    return {
        "rows": len(obs),
        **compare(plain, whole, spec),
        "layers": [{"name": name, **found} for name, found in alone.items()],
    }


def one_at_a_time(plain: nn.Module, prepared: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """For every quantized layer its name, and the float network with that layer alone quantized."""
    names = {layer: name for name, layer in plain.named_modules()}

    def swapped(target: str) -> nn.Module:
        return layers.swap_layers(
            plain,
            lambda layer: prepared.get_submodule(target) if names[layer] == target else layer,
        )

    for name in [n for layer, n in names.items() if isinstance(layer, layers.Seeded)]:
        if prepared.get_submodule(name) is not plain.get_submodule(name):
            yield name, swapped(name)


@torch.inference_mode()
def outputs(module: nn.Module, k: int, obs: ObsArray) -> FloatArray:
    """Seed k's outputs [N, A] of a population of S at its obs [N, *obs_shape]."""
    num_seeds = next(m.num_seeds for m in module.modules() if isinstance(m, layers.Seeded))
    found = []
    for start in range(0, len(obs), BATCH):
        x = torch.from_numpy(obs[start : start + BATCH])
        found.append(module(x.expand(num_seeds, *x.shape))[k].numpy())
    return np.concatenate(found)


def compare(plain: FloatArray, other: FloatArray, spec: EnvSpec) -> dict[str, float]:
    """How far outputs [N, A] are from those of the float agent.

    Of action values:

    - `flip_rate`: share of rows with another greedy action;
    - `q_gap`: median over rows of the float agent's best value less its second best;
    - `q_noise`: median of by how much quantization changes that difference, |e_1 - e_2| with
      e the error of a value; a pair changes places where it exceeds the gap;
    - `rows_below_noise`: share of rows whose gap is below the median noise.

    Of actions of a Box: `action_change`, the mean absolute change in half widths of the Box, and
    `max_action_change`.

    Of both: `output_error`, the root mean square error over the standard deviation of the float
    outputs.
    """
    error = other - plain
    spread = max(float(plain.std()), 1e-12)
    found = {"output_error": float(np.sqrt((error**2).mean())) / spread}
    if spec.num_actions is None:
        half = (np.array(spec.action_high) - np.array(spec.action_low)) / 2
        change = np.abs(error) / half
        return found | {
            "action_change": float(change.mean()),
            "max_action_change": float(change.max()),
        }
    best = np.argsort(-plain, axis=1, kind="stable")[:, :2]
    values, errors = np.take_along_axis(plain, best, 1), np.take_along_axis(error, best, 1)
    gap = values[:, 0] - values[:, -1]
    noise = float(np.median(np.abs(errors[:, 0] - errors[:, -1])))
    return found | {
        "flip_rate": float((plain.argmax(axis=1) != other.argmax(axis=1)).mean()),
        "q_gap": float(np.median(gap)),
        "q_noise": noise,
        "rows_below_noise": float((gap < noise).mean()),
    }


class Noisy:
    """A policy that sees its observations through Gaussian noise.

    Args:
        policy: outputs [B, A] at obs [B, *obs_shape].
        deviation: standard deviation of each feature's noise, or of all values of an image.
        spec: of the env; bytes stay bytes within its bounds.
    """

    def __init__(
        self,
        policy: Callable[[ObsArray], FloatArray],
        deviation: npt.NDArray[np.float64],
        spec: EnvSpec,
    ) -> None:
        self._policy = policy
        self._deviation = deviation
        self._high = spec.obs_high
        self._random = np.random.default_rng(NOISE_SEED)

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs at noisy observations."""
        noisy = obs + self._random.normal(size=obs.shape) * self._deviation
        if self._high is None:
            return self._policy(noisy.astype(np.float32))
        return self._policy(np.clip(np.rint(noisy), 0, self._high).astype(np.uint8))


def under_noise(
    policies: Mapping[str, Callable[[ObsArray], FloatArray]],
    obs: ObsArray,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    spec: EnvSpec,
    *,
    num_episodes: int,
    levels: Sequence[float] = NOISE_LEVELS,
) -> list[dict[str, float]]:
    """Mean return of each agent at every level of observation noise, on the same episodes.

    Args:
        policies: name -> agent.
        obs: [N, *obs_shape] of the agent's own replay, in whose deviations the noise is counted.
        make_env: builds one env.
        spec: of it.
        num_episodes: per agent and level.
        levels: in standard deviations.

    Returns:
        Per level `noise` and each agent's mean return by its name.
    """
    deviation = obs.std(axis=0 if obs.ndim == 2 else None, dtype=np.float64)
    found = []
    for level in levels:
        noisy = [Noisy(policy, level * deviation, spec) for policy in policies.values()]
        played = play(
            greedy(noisy, spec), make_env, num_seeds=len(noisy), num_episodes=num_episodes
        )
        means = zip(policies, played.returns.mean(axis=1).tolist(), strict=True)
        found.append({"noise": level, **dict(means)})
    return found


def table(found: Mapping[str, Any]) -> list[str]:
    """One agent's figures as lines."""
    return [
        f"seed {found['seed']}, {found['rows']} observations of its own replay",
        *_rows([{"quantized": "all layers", **_figures(found)}, *_layer_rows(found["layers"])]),
        "",
        *_rows(found["noise"]),
    ]


def _layer_rows(layers_found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"quantized": f"{entry['name']} alone", **_figures(entry)} for entry in layers_found]


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table in columns."""
    cells = [list(rows[0]), *([_spelled(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _spelled(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
