import json
from pathlib import Path

import pytest

from qbench import records
from qbench.report import folders, rows
from tests.report.grids import write_cell


def made(path: Path) -> list[rows.Row]:
    return rows.make(sorted(p for p in path.rglob("*-dqn-*") if p.is_dir()))


def test_cells_that_differ_in_quantization_alone_are_a_family(tmp_path: Path) -> None:
    for env in ("cartpole", "acrobot"):
        for quant in ("none", "qat8", "ptq4"):
            write_cell(tmp_path / "s", quant, [1.0] * 5, env=env)
    families = rows.families(made(tmp_path))
    assert [family.name for family in families] == ["acrobot", "cartpole"]
    assert [[row.label for row in family.rows] for family in families] == [
        ["none", "ptq4", "qat8"]
    ] * 2
    assert families[0].reference is families[0].rows[0]


def test_families_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    for rate, digits in ((0.1, "a" * 8), (0.2, "b" * 8)):
        config = {"algo": {"learner": {"learning_rate": rate}}}
        write_cell(tmp_path / "s", "none", [1.0], digits=digits, config=config)
    write_cell(tmp_path / "s", "none", [1.0], env="acrobot", network="wide")
    names = {family.name for family in rows.families(made(tmp_path))}
    assert names == {
        "acrobot",
        "cartpole, algo.learner.learning_rate=0.1",
        "cartpole, algo.learner.learning_rate=0.2",
    }


def test_a_cell_is_looked_at_beside_those_of_its_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(20):
        config = {"algo": {"learner": {"gamma": k / 20}}}
        for quant in ("none", "qat8"):
            write_cell(tmp_path / "s", quant, [1.0, k], digits=f"{k:08}", config=config)
    pairs: list[tuple[object, object]] = []
    is_same = folders._is_same_but_quant
    monkeypatch.setattr(
        folders, "_is_same_but_quant", lambda a, b: pairs.append((a, b)) or is_same(a, b)
    )
    compared = {row.cell.name: row.comparison for row in made(tmp_path)}
    assert len(pairs) == 20  # of 20 times 20
    for k in range(20):
        comparison = compared[f"cartpole-mlp-qat8-dqn-{k:08}"]
        assert comparison is not None
        assert comparison.reference.name == f"cartpole-mlp-none-dqn-{k:08}"


def test_two_sweeps_of_the_same_cells_are_not_merged(tmp_path: Path) -> None:
    for sweep, returns in (("a", [1.0, 2.0]), ("b", [3.0, 4.0])):
        write_cell(tmp_path / sweep, "none", returns)
        write_cell(tmp_path / sweep, "ptq8", [value - 1 for value in returns])
    families = rows.families(made(tmp_path))
    assert [family.name for family in families] == ["cartpole, a", "cartpole, b"]
    differences = [row.comparison.difference for f in families for row in f.rows if row.comparison]
    assert differences == [-1, -1]


def test_different_budgets_are_found_by_env(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "none", [1.0], total_env_steps=1000)
    write_cell(tmp_path / "b", "none", [1.0], total_env_steps=2000)
    write_cell(tmp_path / "b", "none", [1.0], env="acrobot", total_env_steps=2000)
    by_length = rows.budgets(row.cell for row in made(tmp_path))
    assert {env: list(lengths) for env, lengths in by_length.items()} == {
        "cartpole": ["1,000 env steps", "2,000 env steps"]
    }


def test_a_budget_in_episodes_is_said_as_such(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "none", [1.0], config={"total_episodes": 700})
    (row,) = made(tmp_path)
    assert rows.budget(row.cell) == "700 episodes"


def test_skipped_cells_and_cells_of_a_name_alone_are_in_no_family(tmp_path: Path) -> None:
    records.write_status(tmp_path / "s" / "cartpole-mlp-none-dqn-00000000", "failed", "why")
    skipped = write_cell(tmp_path / "s", "qat8", [1.0])
    records.write_status(skipped, "skipped", "why")
    assert rows.families(made(tmp_path)) == []


def test_a_hand_edited_config_is_no_reason_to_stop(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path / "s", "qat8", [1.0])
    for config in ({"quant": 3, "total_env_steps": "many"}, {"quant": {"weights": []}}):
        records.write_text(run_dir / ".hydra" / "config.yaml", json.dumps(config))
        (row,) = made(tmp_path)
        assert rows.families([row])[0].name == "cartpole"


def test_the_margin_of_a_verdict_is_that_which_is_asked_for(tmp_path: Path) -> None:
    write_cell(tmp_path / "s", "none", [100.0] * 5)
    write_cell(tmp_path / "s", "ptq8", [92.0] * 5)
    run_dirs = [row.cell.run_dir for row in made(tmp_path)]
    verdicts = {
        tolerance: rows.make(run_dirs, tolerance)[1].comparison.verdict  # type: ignore[union-attr]
        for tolerance in (0.0, 0.05, 0.1)
    }
    assert verdicts == {0.0: "loss", 0.05: "loss", 0.1: "no loss"}
