"""The networks of a finished run as they were trained, rebuilt from its config and checkpoint."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench import layers, records
from qbench.deploy import trust
from qbench.deploy.npz import DAMAGES
from qbench.deploy.stored import Agent, config_of, observations_of, source_of
from qbench.types import EnvSpec, FloatArray, ObsArray, PhasedScheme, QuantScheme

BATCH = 100
"""Observations at a time, as in calibration."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """All seeds of a run."""

    seeds: list[int]
    scheme: QuantScheme
    plain: nn.Module  # the float network of every seed
    prepared: nn.Module  # the same Parameters, quantized as in training
    observations: list[Path]  # per seed, of its final replay


def load_population(
    run_dir: Path, spec: EnvSpec, agents: Sequence[Agent], trusted: Sequence[str] = ()
) -> Population:
    """Rebuild the networks and load their weights; nothing that is stored is executed.

    A post-training scheme has no checkpoint: its agents are those of its base cell, in the
    folder beside, calibrated anew on the stored observations.

    Args:
        run_dir: a finished run.
        spec: of its env.
        agents: its deployed networks, to which the checkpoint must convert.
        trusted: modules whose classes may be built too.

    Raises:
        RunFolderError: a file is gone or damaged, or holds something else than these agents.
        ValueError: a class is not on the list of `trust`.
    """
    config, source = config_of(run_dir), source_of(run_dir)
    seeds = [agent.seed for agent in agents]
    trained = [entry["seed"] for entry in records.read_summary(source)["seeds"]]
    if missing := sorted(set(seeds) - set(trained)):
        raise records.RunFolderError(f"{source} has no seeds {missing}, and {run_dir} has.")
    plain = _float_network(config, spec, len(seeds), trusted)
    scheme: QuantScheme = trust.build("quant", config.get("quant"), trusted)
    checkpoint = source / "checkpoints" / "last.ckpt"
    rows = [trained.index(seed) for seed in seeds]
    if source == run_dir:
        prepared = scheme.prepare(plain)
        load_rows(prepared, checkpoint, rows)
    else:
        load_rows(plain, checkpoint, rows)
        prepared = scheme.prepare(plain)
    population = Population(
        seeds=seeds,
        scheme=scheme,
        plain=plain.eval(),
        prepared=prepared.eval(),
        observations=[observations_of(run_dir, seed) for seed in seeds],
    )
    if isinstance(scheme, PhasedScheme):
        scheme.advance(prepared, math.inf, is_target=False)  # Quantized, however late it began.
    if source != run_dir:
        scheme.calibrate(prepared, batches(population.observations))
    _check_conversion(population, agents, checkpoint)
    return population


def _float_network(
    config: dict[str, Any], spec: EnvSpec, num_seeds: int, trusted: Sequence[str]
) -> nn.Module:
    """The deployed head on its torso, for every seed, with weights of no meaning yet."""
    algo = config.get("algo")
    heads = algo.get("heads") if isinstance(algo, dict) else None
    if not isinstance(heads, dict) or not heads:
        raise ValueError("algo.heads is no mapping")

    def make_torso(obs_shape: tuple[int, ...]) -> nn.Module:
        torso: nn.Module = trust.build(
            "network", config.get("network"), trusted, obs_shape=obs_shape
        )
        return torso

    def make() -> nn.Module:
        head: nn.Module = trust.build(
            "head", next(iter(heads.values())), trusted, make_torso=make_torso, spec=spec
        )
        return head

    return layers.populate(make, range(num_seeds))


def load_rows(network: nn.Module, path: Path, rows: Sequence[int]) -> None:
    """Load the seeds at `rows` of a checkpoint into a network of the same architecture.

    Raises:
        RunFolderError: no checkpoint, not one of qbench's, or of another architecture.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        prefix = "network."
        own = {k.removeprefix(prefix): v[rows] for k, v in state.items() if k.startswith(prefix)}
    except (
        OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, EOFError,
        UnpicklingError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()).split(". ")[0]
        raise records.RunFolderError(f"{path} is not a checkpoint of qbench: {reason}.") from error
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise records.RunFolderError(f"{path} holds another architecture: {first}") from error


def batches(paths: Sequence[Path]) -> Iterator[Tensor]:
    """All stored observations in batches [S, BATCH, *obs_shape]."""
    stored = [load_observations(path) for path in paths]
    for start in range(0, len(stored[0]), BATCH):
        yield torch.from_numpy(np.stack([obs[start : start + BATCH] for obs in stored]))


def load_observations(path: Path) -> ObsArray:
    """A seed's stored observations [10000, *obs_shape].

    Raises:
        RunFolderError: the file is gone or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            obs: ObsArray = stored["obs"]
    except DAMAGES as error:
        said = " ".join(str(error).split())
        raise records.RunFolderError(f"{path} holds no observations: {said}.") from error
    return obs


def _check_conversion(population: Population, agents: Sequence[Agent], path: Path) -> None:
    """Refuse a checkpoint that is not what the deployed networks were converted from.

    Weights alone: ranges that are calibrated anew may differ by a rounding on another machine.
    """
    for k, agent in enumerate(agents):
        converted = population.scheme.convert(layers.take_seed(population.prepared, k)).arrays()
        stored = agent.policy.arrays()
        names = [name for name in stored if name.endswith(".weight")]
        if not all(np.array_equal(stored[n], converted.get(n, ()), equal_nan=True) for n in names):
            raise records.RunFolderError(
                f"{path} and {agent.folder / 'policy.npz'} hold different agents:"
                " one of them was changed."
            )


class TorchPolicy:
    """One agent of a population in torch.

    Args:
        network: of all seeds, plain or prepared.
        k: the agent's row.
    """

    def __init__(self, network: nn.Module, k: int) -> None:
        self._module = layers.take_seed(network, k).eval()
        # Quantized layers keep their seed axis; a float network becomes a plain one.
        self._has_seed_axis = any(isinstance(m, layers.Seeded) for m in self._module.modules())

    @torch.inference_mode()
    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        x = torch.from_numpy(np.ascontiguousarray(obs))
        outputs: FloatArray
        outputs = (self._module(x[None])[0] if self._has_seed_axis else self._module(x)).numpy()
        return outputs
