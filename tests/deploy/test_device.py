"""The C policy on an emulated Cortex-M4: the host's integers, and what they take."""

import json
import shutil

import gymnasium
import numpy as np
import pytest

from qbench import records
from qbench.deploy import device
from qbench.deploy.__main__ import main
from tests.deploy.networks import SPECS, float_policy, integer_policy, observations

absent = device.missing()
needs_tools = pytest.mark.skipif(bool(absent), reason=f"no {', '.join(absent)}: see make device")


@needs_tools
def test_a_microcontroller_repeats_1000_cartpole_actions_of_the_host():
    env, policy = gymnasium.make("CartPole-v1"), integer_policy("mlp", 8)
    obs, _ = env.reset(seed=0)
    seen = []
    while len(seen) < 1000:
        seen.append(np.float32(obs))
        action = policy(seen[-1][None])[0].argmax()
        obs, _, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            obs, _ = env.reset()
    found = device.measure(policy, SPECS["mlp"], np.stack(seen))
    assert found.actions == 1000
    macs = 4 * 255 + 255 * 256 + 256 * 2
    # A multiply-accumulate is two loads, a product and a share of the loop's own instructions.
    assert 3 * macs < found.instructions_per_action < 12 * macs
    assert found.max_instructions_per_action < 1.01 * found.instructions_per_action
    weights, memory = macs, 4 + 255 + 256 + 4 * 2
    assert weights < found.flash_bytes < weights + 16_000
    assert memory + 4 * 4 + 4 * 2 < found.ram_bytes - found.stack_bytes < memory + 200
    assert 0 < found.stack_bytes < 1000


@needs_tools
@pytest.mark.parametrize(("name", "bits"), [("mlp", 4), ("actor", 8), ("planes", 2)])
def test_every_kind_of_network_has_the_host_s_integers_there(name, bits):
    found = device.measure(integer_policy(name, bits), SPECS[name], observations(name, 10, seed=9))
    assert found.actions == 10


@needs_tools
def test_another_integer_or_another_action_is_an_error():
    policy, obs = integer_policy("mlp", 8), observations("mlp", 3)
    *codes, outputs = policy.trace(obs)
    sums = policy.layers[-1].accumulate(codes[-1]).astype(np.int32)
    device._compare(policy, SPECS["mlp"], obs, sums, outputs)
    with pytest.raises(device.DeviceError, match="differ in 6 sums"):
        device._compare(policy, SPECS["mlp"], obs, sums + 1, outputs)
    with pytest.raises(device.DeviceError, match="differ in 3 actions"):
        device._compare(policy, SPECS["mlp"], obs, sums, -outputs)


def test_results_are_parsed_word_by_word():
    row = np.array([7, -8], "<i4").tobytes() + np.array([0.5, -1.5], "<f4").tobytes()
    raw = b"\x10\x27\0\0" + row + b"\x05\0\0\0" + b"\x40\0\0\0"
    sums, outputs, ticks, stack = device._parsed(raw, 1, 2)
    assert sums.tolist() == [[7, -8]] and outputs.tolist() == [[0.5, -1.5]]
    assert ticks.tolist() == [10_000, 5] and stack == 64
    with pytest.raises(device.DeviceError, match="stopped early, after 28 bytes"):
        device._parsed(raw, 2, 2)


def test_missing_tools_are_one_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(device.DeviceError, match=r"needs arm-none-eabi-gcc.* make device installs"):
        device.measure(integer_policy("mlp", 8), SPECS["mlp"], observations("mlp", 1))


@needs_tools
def test_a_float_network_has_no_form_there():
    with pytest.raises(ValueError, match="integer networks only"):
        device.measure(float_policy("mlp"), SPECS["mlp"], observations("mlp", 1))


@needs_tools
def test_the_command_adds_the_figures_to_the_summary_and_the_card(cell, tmp_path, capsys):
    copied = tmp_path / "cell"
    shutil.copytree(cell, copied)
    assert main([str(copied), "--device", "cortex-m4", "--seed", "1", "--actions", "5"]) == 0
    assert "flash_bytes" in capsys.readouterr().out
    summary = records.read_summary(copied)
    figures = summary["device"]["cortex-m4"]
    assert figures["actions"] == 5 and list(figures) == list(device.OnDevice._fields)
    assert ["device" in entry for entry in summary["seeds"]] == [False, True]
    before = json.loads((cell / "summary.json").read_text())
    assert {key: summary[key] for key in before if key != "seeds"} == {
        key: before[key] for key in before if key != "seeds"
    }
    text = (copied / "deploy" / "seed_1" / "model_card.md").read_text()
    assert f"| flash_bytes | {figures['flash_bytes']:,} |" in text
    assert "flash_bytes" not in (copied / "deploy" / "seed_0" / "model_card.md").read_text()
