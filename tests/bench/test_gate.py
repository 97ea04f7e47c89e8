"""The gate's comparison on made-up numbers, and once on a program that was slowed down."""

import functools
import json

import pytest

from tests.bench import gate, ratios, reference
from tests.bench.gate import Verdict, judge


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(gate, "PAUSE_S", 0.0)


def measured(*passes):
    """A `run_pass` that gives these ratios of any benchmark, one after the other."""
    left = iter(passes)

    def run_pass(names):
        return dict.fromkeys(names, next(left))

    return run_pass


def test_a_slowdown_of_15_percent_is_found_in_every_pass():
    (verdict,) = judge(measured(*[2.3] * gate.PASSES), ["update"], {"update": 2.0}, 0.1)
    assert verdict.ratio == pytest.approx(2.3)
    assert verdict.is_slower(0.1)


def test_what_is_within_the_tolerance_is_measured_once():
    (verdict,) = judge(measured(2.18), ["update"], {"update": 2.0}, 0.1)
    assert verdict == Verdict("update", 2.18, 2.0)
    assert not verdict.is_slower(0.1)


def test_a_spell_of_noise_passes_in_a_later_pass():
    (verdict,) = judge(measured(3.0, 2.5, 2.1, 2.0, 1.9), ["update"], {"update": 2.0}, 0.1)
    assert verdict.ratio == 2.1


def test_one_quiet_process_of_a_slower_program_is_not_believed():
    passes = 2.3, 2.31, 2.0, 2.29, 2.3, 2.28
    (verdict,) = judge(measured(*passes), ["update"], {"update": 2.0}, 0.1)
    assert verdict.ratio == pytest.approx(2.295)


def test_a_slower_machine_changes_no_ratio(monkeypatch):
    for slowness in (1.0, 2.5):
        seconds = {"work": 2.0 * slowness, "reference": slowness}
        monkeypatch.setattr(gate.cpu, "seconds_of", lambda work, count, s=seconds: s[work()])
        assert gate.measure(lambda: "work", lambda: "reference") == 2.0


def test_only_the_suspects_are_measured_again():
    asked = []

    def run_pass(names):
        asked.append(names)
        return {name: 1.0 if name == "same" else 1.3 for name in names}

    verdicts = judge(run_pass, ["same", "slower"], {"same": 1.0, "slower": 1.0}, 0.1)
    assert asked == [["same", "slower"], *[["slower"]] * (gate.PASSES - 1)]
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
    assert gate.check(["old", "new"], measured(1.0), 0.1) == 1
    said = capsys.readouterr().out
    assert "new: no baseline, make bench-baseline writes one" in said
    assert "1 of 2 fail: new" in said


def test_another_processor_than_the_baselines_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    assert gate.check(["old"], measured(), 0.1) == 2
    assert "make bench-baseline" in capsys.readouterr().err


def test_a_processor_is_told_apart_by_its_cache(tmp_path, monkeypatch):
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("model name : x\ncache size\t: 20 KB\n\ncache size\t: 10 KB\n")
    monkeypatch.setattr(gate.product, "CPU_INFO", cpu)
    assert "cache 10 KB, cache 20 KB" in gate.processor()


def test_a_baseline_keeps_medians_and_the_entries_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(gate, "processor", lambda: "this")
    gate.BASELINE.write_text(json.dumps({"other": {"a": 9.0}, "this": {"a": 8.0, "b": 7.0}}))
    passes = [1.0, 9.0, 1.5, 2.5, *[2.0] * (gate.PASSES - 4)]
    gate.write_baseline(["a"], measured(*passes))
    written = json.loads(gate.BASELINE.read_text())
    assert written == {"other": {"a": 9.0}, "this": {"a": 2.0, "b": 7.0}}


def test_every_benchmark_has_a_known_reference():
    assert {benchmark.reference for benchmark in gate.BENCHMARKS.values()} == set(reference.WORK)


def test_ratios_are_those_to_the_first_of_a_group():
    printed = list(ratios.lines({"update mlp/none": 2e-3, "update mlp/qat8": 3e-3, "report": 1e-3}))
    assert printed[1].endswith("3000 us  1.50 of none")
    assert printed[2].endswith("1000 us")


@pytest.mark.slow
def test_a_planted_slowdown_of_15_percent_is_found_and_none_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    names = ["update mlp/none", "act mlp/integer"]
    gate.write_baseline(names, gate.in_a_process)
    baseline = json.loads(gate.BASELINE.read_text())[gate.processor()]
    slowed = functools.partial(gate.in_a_process, planted=0.15)
    same, found = (
        [verdict.is_slower(gate.TOLERANCE) for verdict in judge(p, names, baseline, gate.TOLERANCE)]
        for p in (gate.in_a_process, slowed)
    )
    assert (same, found) == ([False, False], [True, True])
