"""The model card of a deployed agent: what it is, what it scores, weighs and costs."""

from collections.abc import Iterator, Mapping
from typing import Any

from qbench.deploy.cost import Cost, bits_of, input_shapes, layers_of
from qbench.quant.integer import IntegerNetwork
from qbench.types import EnvSpec, IntegerPolicy

CALL_ONNX = """\
    session = onnxruntime.InferenceSession("policy.onnx")
    output = session.run(None, {"obs": obs})[0]"""

CALL_C = """\
    policy_memory memory;
    float output[POLICY_OUTPUTS];
    if (policy_quantize(obs, &memory) == 0) {
        policy_run(&memory);
        policy_dequantize(&memory, output);
    }"""


def text(
    summary: Mapping[str, Any], entry: Mapping[str, Any], policy: IntegerPolicy, spec: EnvSpec
) -> str:
    """Markdown.

    Args:
        summary: the cell's summary.json.
        entry: the agent's own one of its `seeds`.
        policy: its network.
        spec: of its env.
    """
    sections = [
        _head(summary, entry, spec),
        _tensors(policy, spec),
        _table("Bytes", "file", "bytes", summary["artifact_bytes"]),
        _costs(Cost(**summary["cost"])),
        _latency(summary["latency_us"]),
        _device(entry.get("device", {})),
        _parity(entry["agreement"]),
        _calls(policy, spec, summary["artifact_bytes"]),
    ]
    return "\n".join("\n".join(section) for section in sections)


def _head(summary: Mapping[str, Any], entry: Mapping[str, Any], spec: EnvSpec) -> Iterator[str]:
    axes = ", ".join(f"{axis} {summary[axis]}" for axis in ("network", "quant", "algo"))
    interval = summary["return_ci"]
    ends = "-" if interval is None else f"{interval[0]:.1f}, {interval[1]:.1f}"
    yield f"# {spec.id}: {axes}, training seed {entry['seed']}\n"
    yield (
        f"Mean greedy return {entry['eval_return_mean']:.1f} over {len(entry['eval_returns'])}"
        f" episodes after {entry['env_steps']:,} env steps. Interquartile mean over the"
        f" {summary['num_seeds']} seeds of its cell: {summary['return_iqm']:.1f},"
        f" 95 % interval [{ends}].\n"
    )


def _tensors(policy: IntegerPolicy, spec: EnvSpec) -> Iterator[str]:
    yield "| layer | weights | weight bits | input | input bits |"
    yield "|---|---|---|---|---|"
    rows = zip(layers_of(policy), input_shapes(policy, spec), bits_of(policy), strict=True)
    for number, (layer, shape, (weight_bits, input_bits)) in enumerate(rows):
        weights, taken = ("x".join(map(str, s)) for s in (layer.weight.shape, shape))
        yield f"| {number} | {weights} | {weight_bits} | {taken} | {input_bits} |"
    yield ""
    if isinstance(policy, IntegerNetwork):
        low = -policy.input_zero / policy.input_inverse_scale
        high = (policy.input_top - policy.input_zero) / policy.input_inverse_scale
        ranges = (f"[{a:.4g}, {b:.4g}]" for a, b in zip(low, high, strict=True))
        yield f"Range of the observation, by feature or of all: {', '.join(ranges)}.\n"


def _table(title: str, name: str, unit: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"| {name} | {unit} |\n|---|---|"
    for key, value in values.items():
        yield f"| {key} | {_spelled(value)} |"
    yield ""


def _spelled(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, float) else f"{value:,}"


def _costs(cost: Cost) -> Iterator[str]:
    yield (
        f"One action takes {cost.macs:,} multiply-accumulates, {cost.bit_operations:,} bit"
        f" operations and {cost.activation_bytes:,} bytes of activations.\n"
    )


def _latency(latency: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    sizes = list(dict.fromkeys(size for times in latency.values() for size in times))
    if not sizes:
        return
    yield "## Microseconds per call, one thread, by batch size\n"
    yield f"| | {' | '.join(sizes)} |\n|---|{'---|' * len(sizes)}"
    for name, times in latency.items():
        cells = (f"{times[size]:,.1f}" if size in times else "-" for size in sizes)
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _device(devices: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, figures in devices.items():
        yield from _table(f"On a {name}, emulated", "figure", "value", figures)


def _parity(agreement: Mapping[str, Any] | None) -> Iterator[str]:
    if agreement is not None:
        yield from _table("Agreement of the forms", "figure", "value", agreement)


def _calls(policy: IntegerPolicy, spec: EnvSpec, sizes: Mapping[str, Any]) -> Iterator[str]:
    dtype = "float32" if spec.obs_high is None else "uint8"
    shape = ", ".join(map(str, spec.obs_shape))
    meaning = "one value per action; the greedy action is the largest one's index"
    if spec.num_actions is None:
        meaning = f"an action within {list(spec.action_low)} and {list(spec.action_high)}"
    yield f"## How to call it\n\nobs: {dtype} [batch, {shape}]. output: float32, {meaning}.\n"
    if "onnx" in sizes:
        yield CALL_ONNX
    if "c" in sizes:
        yield f"\n`gcc -std=c99 -O3 policy.c -lm`, one observation at a time:\n\n{CALL_C}"
