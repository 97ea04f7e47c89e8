"""ONNX files: whole in integers, and the numbers of the NumPy reference."""

import dataclasses

import numpy as np
import pytest

from qbench.quant import agreement
from qbench.train import deployment
from tests.deploy.networks import SPECS, float_policy, integer_policy, observations

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
reference = pytest.importorskip("onnx.reference", reason="the deploy extra is not installed")
from qbench.deploy import onnx as export  # noqa: E402

NAMES = list(SPECS)


def ptp(outputs):
    return np.ptp(outputs, axis=0).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_float_network_gives_its_own_outputs(name):
    policy, obs = float_policy(name), observations(name, 20)
    played = export.OnnxPolicy(export.export(policy, SPECS[name]), SPECS[name])
    np.testing.assert_allclose(played(obs), policy(obs), rtol=1e-4, atol=1e-5)
    assert not played.is_integer


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", NAMES)
def test_an_integer_network_has_no_product_in_float_and_the_reference_s_outputs(name, bits):
    policy, obs = integer_policy(name, bits), observations(name, 200, seed=9)
    played = export.OnnxPolicy(export.export(policy, SPECS[name]), SPECS[name])
    assert played.is_integer
    products = {"QGemm": len(policy.layers)}
    if name in ("cnn", "planes"):
        convolutions = sum(layer.stride is not None for layer in policy.layers)
        products = {"QLinearConv": convolutions, "QGemm": len(policy.layers) - convolutions}
    assert {op: played.operators[op] for op in products} == products
    expected, outputs = policy(obs), played(obs)
    differ = np.abs(outputs - expected).max(axis=1) > 1e-5 * ptp(expected)
    # Where a sum lies on a rounding tie, one hidden code differs: a fraction of a step.
    assert differ.mean() <= 0.02
    assert np.abs(outputs - expected).max() <= ptp(expected) / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_second_runtime_has_the_same_codes_at_every_layer(name, bits):
    policy = integer_policy(name, bits)
    obs = observations(name, 2 if name == "cnn" else 40, seed=7)
    model = export.export(policy, SPECS[name], shows_codes=True)
    output, *codes = reference.ReferenceEvaluator(model).run(None, {"obs": obs})
    traced, tally = policy.trace(obs), agreement.Tally(policy)
    if len(codes) < len(policy.layers):
        codes = [obs, *codes]
    tally.add(obs, traced, [shown.astype(np.float32) for shown in codes], output)
    found = tally.result()
    # A single tie among so few codes is more than the share that 10,000 observations may have.
    assert found._replace(differing_codes=0.0).holds, found
    assert found.rows_with_a_differing_code <= 0.05
    played = export.OnnxPolicy(export.export(policy, SPECS[name]), SPECS[name])
    assert (played(obs).argmax(1) == output.argmax(1)).all()


def test_the_paper_s_grid_keeps_a_real_offset_at_the_input():
    policy, obs = integer_policy("mlp", 8, grid="affine"), observations("mlp", 200, seed=9)
    assert (policy.input_zero % 1).any()
    played = export.OnnxPolicy(export.export(policy, SPECS["mlp"]), SPECS["mlp"])
    assert np.abs(played(obs) - policy(obs)).max() <= ptp(policy(obs)) / 255


@pytest.mark.parametrize(("bits", "share"), [(8, 0.28), (4, 0.16)])
def test_an_artefact_s_share_of_the_float_bytes(bits, share, tmp_path):
    for name, sizes in (("mlp", {"hidden_sizes": (256, 256)}), ("cnn", {})):
        whole = export.save(tmp_path / "float.onnx", float_policy(name, **sizes), SPECS[name])
        policy = integer_policy(name, bits, **sizes)
        small = export.save(tmp_path / "int.onnx", policy, SPECS[name])
        assert small <= share * whole


def test_what_is_no_policy_of_this_env_is_refused(tmp_path):
    path = tmp_path / "policy.onnx"
    export.save(path, integer_policy("mlp", 8), SPECS["mlp"])
    with pytest.raises(export.ExportError, match="not a policy that qbench wrote: its inputs"):
        export.OnnxPolicy(path, SPECS["planes"])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(export.ExportError, match="not a policy that qbench wrote"):
        export.OnnxPolicy(path, SPECS["mlp"])


def test_observations_of_another_shape_or_not_finite_are_refused():
    played = export.OnnxPolicy(export.export(integer_policy("mlp", 8), SPECS["mlp"]), SPECS["mlp"])
    with pytest.raises(ValueError, match=r"obs is \[2, 3\]"):
        played(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        played(np.full((1, 4), np.nan, np.float32))


def hidden_real_offset():
    policy = integer_policy("mlp", 8)
    first = policy.layers[0]
    third = (np.int64(1) << first.shift.astype(np.int64)) // 3
    shifted = dataclasses.replace(first, offset=first.offset + third)
    return dataclasses.replace(policy, layers=(shifted, *policy.layers[1:]))


def test_a_hidden_real_offset_has_no_form_and_is_left_out(tmp_path, capsys):
    broken = hidden_real_offset()
    with pytest.raises(
        export.ExportError, match=r"no real-valued offset, which layer 0 \(weights 255x4\)"
    ):
        export.export(broken, SPECS["mlp"])
    sizes, written = deployment._write(tmp_path, broken, SPECS["mlp"], ["onnx", "c"])
    assert written == ["c"] and sorted(sizes) == ["c", "npz", "npz_weights"]
    assert "formats: onnx is left out, onnx has no real-valued offset" in capsys.readouterr().out
