"""Observations and stored networks that no runtime may take."""

import dataclasses

import numpy as np
import pytest

from qbench.deploy import c, npz
from qbench.deploy.checks import Checked, check_policy
from qbench.deploy.stored import _load
from tests.deploy.networks import SPECS, float_policy, integer_policy, observations
from tests.deploy.test_parity import changed

pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
from qbench.deploy import onnx as export


@pytest.fixture(scope="module")
def runtimes():
    """Every form of one agent, by its kind and the runtime's name."""
    found = {}
    for name in ("mlp", "planes"):
        policy, spec = integer_policy(name, 8), SPECS[name]
        found[name, "numpy"] = Checked(policy, spec)
        found[name, "onnx"] = export.OnnxPolicy(export.export(policy, spec), spec)
        if c.compiler():
            found[name, "c"] = c.CompiledPolicy(policy, spec)
    return found


@pytest.mark.parametrize("runtime", ["numpy", "onnx", "c"])
@pytest.mark.parametrize(
    ("name", "obs", "sentence"),
    [
        ("mlp", np.zeros((2, 3), np.float32), r"obs is \[2, 3\], not \[B, \*\[4\]\]"),
        ("mlp", np.zeros(4, np.float32), r"obs is \[4\], not"),
        ("mlp", np.float32(1), r"obs is \[\], not"),
        ("mlp", np.full((1, 4), np.nan, np.float32), "not finite"),
        ("mlp", np.array([[0, 0, -np.inf, 0]], np.float32), "not finite"),
        ("mlp", np.array([["a", "b", "c", "d"]]), "is of type <U1, not of numbers"),
        ("planes", np.zeros((1, 10, 10, 4), np.uint8), r"obs is \[1, 10, 10, 4\], not"),
        ("planes", np.zeros((1, 4, 10, 10), np.float32), "planes gives bytes, uint8"),
    ],
)
def test_every_runtime_refuses_what_is_no_observation(runtimes, runtime, name, obs, sentence):
    if (name, runtime) not in runtimes:
        pytest.skip("no gcc")
    with pytest.raises(ValueError, match=sentence):
        runtimes[name, runtime](obs)


def test_a_refusal_leaves_a_policy_usable(runtimes):
    policy, obs = runtimes["mlp", "numpy"], observations("mlp", 3)
    before = policy(obs)
    with pytest.raises(ValueError, match="not finite"):
        policy(obs * np.nan)
    assert np.array_equal(policy(obs), before)


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_what_conversion_makes_passes(name, bits):
    check_policy(integer_policy(name, bits), SPECS[name])
    check_policy(float_policy(name), SPECS[name])


def layer(number, **arrays):
    return lambda policy: changed(policy, number, **arrays)


def top(policy, **values):
    return dataclasses.replace(policy, **values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: top(p, layers=()), "has no layers"),
        (lambda p: top(p, layers=p.layers[1:]), r"layer 0 has weights \[256, 255\]"),
        (lambda p: top(p, layers=p.layers[:-1]), "it has 256 outputs, vector takes 2"),
        (layer(1, bias=np.zeros(3, np.int32)), r"layer 1 has .* biases \[3\]"),
        (layer(1, bias=np.full(256, 2**31 - 1, np.int32)), "a sum of layer 1 can be .* int32"),
        (layer(1, bias=np.zeros(256, np.int64)), "layer 1 has weights of another type"),
        (layer(0, shift=np.zeros(255, np.int32)), "requantization of layer 0 is damaged"),
        (layer(0, shift=np.full(255, 60, np.int32)), "requantization of layer 0 is damaged"),
        (layer(0, multiplier=np.full(255, -1, np.int32)), "requantization of layer 0 is damaged"),
        (layer(0, offset=np.full(255, 2**62, np.int64)), "requantization of layer 0 is damaged"),
        (layer(0, top=256), "requantization of layer 0 is damaged"),
        (layer(0, multiplier=None), "layer 0 has a requantization where none belongs, or none"),
        (
            layer(
                2,
                multiplier=np.ones(2, np.int32),
                shift=np.ones(2, np.int32),
                offset=np.ones(2, np.int64),
            ),
            "layer 2 has a requantization where none",
        ),
        (lambda p: top(p, input_top=0), "codes go up to 0"),
        (lambda p: top(p, input_zero=np.full(4, np.nan, np.float32)), "range is damaged"),
        (lambda p: top(p, output_scale=np.ones(3, np.float32)), "outputs' scales are damaged"),
    ],
)
def test_a_network_that_conversion_cannot_have_made_is_refused(change, sentence, tmp_path):
    policy = change(integer_policy("mlp", 8))
    with pytest.raises(ValueError, match=sentence):
        check_policy(policy, SPECS["mlp"])
    folder = tmp_path / "deploy" / "seed_0"
    npz.save(folder / "policy.npz", policy)
    with pytest.raises(ValueError, match="is not a policy that qbench wrote"):
        _load(tmp_path, 0, SPECS["mlp"])


def test_an_archive_changed_at_any_place_is_refused_or_another_sound_network(tmp_path):
    path = tmp_path / "policy.npz"
    npz.save(path, integer_policy("planes", 4))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    num_refused = 0
    for _ in range(60):
        content = bytearray(whole)
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            check_policy(npz.load(path), SPECS["planes"])
        except ValueError:
            num_refused += 1
    assert num_refused > 50  # The archive has a checksum of every array.
