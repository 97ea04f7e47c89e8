"""What plays a stored agent: torch, NumPy, ONNX Runtime, or C compiled by gcc."""

from collections.abc import Sequence
from pathlib import Path

from qbench.deploy.checks import Checked, Form
from qbench.deploy.stored import Agent
from qbench.types import EnvSpec

NAMES = ("torch", "numpy", "onnx", "c")


def make(
    runtime: str,
    run_dir: Path,
    spec: EnvSpec,
    agents: Sequence[Agent],
    chosen: Sequence[Agent],
    trusted: Sequence[str],
) -> list[Form]:
    """The chosen agents, as the stored files that a runtime plays; nothing stored is executed.

    Args:
        runtime: of NAMES. numpy plays policy.npz. onnx and c play policy.onnx and policy.c if they
            are what qbench writes from policy.npz, and refuse them otherwise. torch plays the
            checkpoint.
        run_dir: a finished run.
        spec: of its env.
        agents: all its agents.
        chosen: those that play.
        trusted: modules whose classes may be built.

    Raises:
        RunFolderError: the checkpoint cannot be used.
        ValueError: a file cannot be used, or the runtime has no form of the network.
    """
    match runtime:
        case "torch":
            return _torch(run_dir, spec, agents, chosen, trusted)
        case "onnx":
            return [_onnx(agent, spec) for agent in chosen]
        case "c":
            return [_c(agent, spec) for agent in chosen]
    return [Checked(agent.policy, spec) for agent in chosen]


def _torch(
    run_dir: Path,
    spec: EnvSpec,
    agents: Sequence[Agent],
    chosen: Sequence[Agent],
    trusted: Sequence[str],
) -> list[Form]:
    from qbench.deploy.population import TorchPolicy, load_population

    population = load_population(run_dir, spec, agents, trusted)
    rows = [population.seeds.index(agent.seed) for agent in chosen]
    return [Checked(TorchPolicy(population.prepared, k), spec) for k in rows]


def _onnx(agent: Agent, spec: EnvSpec) -> Form:
    from qbench.deploy import onnx  # an extra

    path = agent.folder / "policy.onnx"
    onnx.require_same(path, agent.policy, spec)
    return onnx.OnnxPolicy(path, spec)


def _c(agent: Agent, spec: EnvSpec) -> Form:
    from qbench.deploy import c

    c.require_same(agent.folder, agent.policy, spec)
    return c.CompiledPolicy(agent.policy, spec)
