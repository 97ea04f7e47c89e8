"""The gate's comparison on made-up numbers, and once on a program that was slowed down."""

import json

import pytest

from tests.bench import cpu, gate, ratios, reference
from tests.bench.gate import Slices, Verdict, judge


def measured(*attempts):
    """An `attempt` that gives these slices of any benchmark, one after the other."""
    left = iter(attempts)
    return lambda name: next(left)


def test_a_slowdown_of_15_percent_is_found_in_every_attempt():
    slow = Slices(2.0 * 1.15, 1.0)
    (verdict,) = judge(measured(slow, slow, slow, slow), ["update"], {"update": 2.0}, 0.1)
    assert verdict.ratio == pytest.approx(2.3)
    assert verdict.is_slower(0.1)


def test_what_is_within_the_tolerance_is_measured_once():
    (verdict,) = judge(measured(Slices(2.18, 1.0)), ["update"], {"update": 2.0}, 0.1)
    assert verdict == Verdict("update", 2.18, 2.0)
    assert not verdict.is_slower(0.1)


def test_a_spell_of_noise_on_the_work_passes_in_a_later_attempt():
    attempts = Slices(3.0, 1.0), Slices(2.5, 1.2), Slices(2.1, 1.1)
    (verdict,) = judge(measured(*attempts), ["update"], {"update": 2.0}, 0.1)
    assert verdict.ratio == 2.1  # the least of the work, 2.1, over the least of the reference, 1.0


def test_a_slower_machine_changes_no_ratio():
    assert Slices(2.0, 1.0).ratio == Slices(5.0, 2.5).ratio == 2.0


def test_only_the_suspects_are_measured_again():
    asked = []

    def attempt(name):
        asked.append(name)
        return Slices(1.0 if name == "same" else 1.3, 1.0)

    verdicts = judge(attempt, ["same", "slower"], {"same": 1.0, "slower": 1.0}, 0.1, attempts=3)
    assert asked == ["same", "slower", "slower", "slower"]
    assert [verdict.is_slower(0.1) for verdict in verdicts] == [False, True]


def test_a_verdict_names_the_benchmark_its_ratio_its_baseline_and_the_tolerance():
    said = Verdict("update mlp/qat8", 2.3, 2.0).sentence(0.1)
    assert said == (
        "SLOWER update mlp/qat8: 2.300 of its reference, baseline 2.000, +15.0%, tolerance +10%"
    )


def test_a_benchmark_without_a_baseline_fails_and_says_how_to_write_one(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    gate.BASELINE.write_text(json.dumps({gate.processor(): {"old": 1.0}}))
    assert gate.check(["old", "new"], lambda name: Slices(1.0, 1.0), 0.1) == 1
    said = capsys.readouterr().out
    assert "new: no baseline, make bench-baseline writes one" in said
    assert "1 of 2 fail: new" in said


def test_another_processor_than_the_baselines_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    assert gate.check(["old"], lambda name: Slices(1.0, 1.0), 0.1) == 2
    assert "make bench-baseline" in capsys.readouterr().err


def test_a_baseline_keeps_the_least_slices_and_the_entries_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(gate, "processor", lambda: "this")
    gate.BASELINE.write_text(json.dumps({"other": {"a": 9.0}, "this": {"a": 8.0, "b": 7.0}}))
    attempts = Slices(2.0, 1.1), Slices(2.2, 1.0), Slices(2.4, 1.2), Slices(2.1, 1.3)
    gate.write_baseline(["a"], measured(*attempts))
    written = json.loads(gate.BASELINE.read_text())
    assert written == {"other": {"a": 9.0}, "this": {"a": 2.0, "b": 7.0}}


def test_every_benchmark_has_a_known_reference():
    assert {benchmark.reference for benchmark in gate.BENCHMARKS.values()} == set(reference.WORK)


def test_ratios_are_those_to_the_first_of_a_group():
    printed = list(ratios.lines({"update mlp/none": 2e-3, "update mlp/qat8": 3e-3, "report": 1e-3}))
    assert printed[1].endswith("3000 us  1.50 of none")
    assert printed[2].endswith("1000 us")


@pytest.mark.slow
def test_a_planted_slowdown_of_15_percent_is_found_and_none_is_not():
    name = "update mlp/none"
    work, beside = gate.BENCHMARKS[name].make(), reference.WORK["small"]()
    slow = cpu.slowed(work, 0.15)
    as_it_was = gate.measure(work, beside, rounds=100)
    baseline = {name: as_it_was.ratio}
    (same,) = judge(lambda _: gate.measure(work, beside), [name], baseline, gate.TOLERANCE)
    (found,) = judge(lambda _: gate.measure(slow, beside), [name], baseline, gate.TOLERANCE)
    assert not same.is_slower(gate.TOLERANCE)
    assert found.is_slower(gate.TOLERANCE)
