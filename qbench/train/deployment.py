"""What becomes of a trained agent: its files, and the proof that they compute what was trained."""

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from qbench import records
from qbench.deploy import artifacts, c, card, latency, parity
from qbench.deploy.cost import cost
from qbench.quant.dynamic import DynamicNetwork
from qbench.quant.integer import IntegerNetwork
from qbench.types import EnvSpec, IntegerPolicy, ObsArray


class Deployed(NamedTuple):
    """One agent's files, by what they weigh and how far they agree."""

    folder: Path
    policy: IntegerPolicy
    sizes: dict[str, int]  # bytes by format
    agreement: dict[str, Any] | None  # None for a float network


def deploy(
    module: nn.Module,
    policy: IntegerPolicy,
    spec: EnvSpec,
    *,
    folder: Path,
    formats: Collection[str],
    obs: ObsArray,
    must_agree: bool,
) -> Deployed:
    """Write one agent's files and compare what they compute with what was trained.

    Args:
        module: prepared population of one that `policy` was converted from.
        policy: the converted network.
        spec: of its env.
        folder: where the files go.
        formats: of artifacts.FORMATS, beside npz.
        obs: [N, *obs_shape] of the agent's own replay.
        must_agree: false for a seed that diverged: it is scored as it stands, and its weights
            may be no numbers.

    Raises:
        ParityError: a form does not compute what was trained.
    """
    sizes, formats = _write(folder, policy, spec, formats)
    if not isinstance(policy, IntegerNetwork):
        return Deployed(folder, policy, sizes, None)
    compiled = c.CompiledPolicy(policy, spec) if "c" in formats and c.compiler() else None
    in_onnx = _in_onnx(folder, policy, spec) if "onnx" in formats else None
    found = parity.measure(module, policy, obs, compiled=compiled, in_onnx=in_onnx)
    if must_agree:
        parity.refuse(found)
    return Deployed(folder, policy, sizes, found)


def _in_onnx(folder: Path, policy: IntegerNetwork, spec: EnvSpec) -> parity.Form:
    from qbench.deploy import onnx  # an extra

    return onnx.Compared(onnx.OnnxPolicy(folder / "policy.onnx", spec), policy, spec)


def _write(
    folder: Path, policy: IntegerPolicy, spec: EnvSpec, formats: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """Bytes by format, and the formats that the network has a form in; says which it has not."""
    sizes, written = artifacts.write(folder, policy, spec, ["npz"]), []
    for name in formats:
        try:
            sizes |= artifacts.write(folder, policy, spec, [name])
            written.append(name)
        except ValueError as error:
            print(f"formats: {name} is left out, {error}")
    return sizes, written


def available(formats: Collection[str]) -> list[str]:
    """The formats that can be written here; says what is left out, and why."""
    kept = list(formats)
    if "onnx" in kept and not (find_spec("onnx") and find_spec("onnxruntime")):
        print('formats: onnx is left out, it needs pip install ".[deploy]".')
        kept.remove("onnx")
    if "c" in kept and c.compiler() is None:
        print("formats: c is written but not checked, there is no gcc on the PATH.")
    return kept


def costs(
    deployed: Deployed, spec: EnvSpec, obs: ObsArray, formats: Collection[str]
) -> dict[str, Any]:
    """What the summary says of one action: `cost`, and `latency_us` by form and batch size."""
    forms = _forms(deployed.policy, spec, formats)
    found: dict[str, dict[str, float]] = {name: {} for name in forms}
    for size in latency.BATCH_SIZES if formats else ():
        # C plays one observation at a time.
        timed = {name: form for name, form in forms.items() if size == 1 or name != "c"}
        for name, value in latency.measure(timed, obs[:size]).items():
            found[name][str(size)] = round(value, 2)
    return {"cost": cost(deployed.policy, spec)._asdict(), "latency_us": found}


def _forms(
    policy: IntegerPolicy, spec: EnvSpec, formats: Collection[str]
) -> dict[str, latency.Call]:
    twin = latency.float_twin(policy, spec)
    forms: dict[str, latency.Call] = {"torch_float": latency.TorchPolicy(twin)}
    is_integer = isinstance(policy, IntegerNetwork)
    if "onnx" in formats:
        from qbench.deploy import onnx

        forms["onnx_float"] = onnx.OnnxPolicy(onnx.export(twin, spec), spec)
        if is_integer or isinstance(policy, DynamicNetwork):
            forms["onnx"] = onnx.OnnxPolicy(onnx.export(policy, spec), spec)
    if "c" in formats and is_integer and c.compiler():
        forms["c"] = c.CompiledPolicy(policy, spec)
    return forms


def write_cards(summary: Mapping[str, Any], deployed: Sequence[Deployed], spec: EnvSpec) -> None:
    """Each agent's model_card.md."""
    for entry, agent in zip(summary["seeds"], deployed, strict=True):
        records.write_text(
            agent.folder / "model_card.md", card.text(summary, entry, agent.policy, spec)
        )
