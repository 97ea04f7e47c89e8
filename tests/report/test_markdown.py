from qbench import records
from qbench.report import load_cells, markdown
from qbench.report.stats import Interval
from tests.report.paper_cells import MIB, write_cell


def test_a_row_holds_the_numbers_of_its_cell(tmp_path):
    write_cell(tmp_path, "none", dict.fromkeys(range(5), ()), final=500.0, peak=300 * MIB)
    write_cell(tmp_path, "paper8", dict.fromkeys(range(5), ()), final=490.0, peak=310 * MIB)
    *_, none, paper8 = markdown.cells_table(load_cells([tmp_path])).splitlines()
    assert none == (
        "| cartpole | mlp | none | dqn | 5 | 500.0 [500.0, 500.0] | - | 300 | 2.0 | done |"
    )
    assert paper8 == (
        "| cartpole | mlp | paper8 | dqn | 5 | 490.0 [490.0, 490.0] | -10.0 [-10.0, -10.0]"
        " | 310 | 1.0 | done |"
    )


def test_a_failed_cell_is_a_row_with_its_reason_and_cannot_end_a_field(tmp_path):
    records.write_status(tmp_path / "cartpole-mlp-none-dqn-00000000", "failed", "a | b\nc")
    row = markdown.cells_table(load_cells([tmp_path])).splitlines()[-1]
    assert row == "| cartpole | mlp | none | dqn | - | - | - | - | - | failed: a \\| b c |"


def test_what_there_is_not_is_a_dash():
    assert markdown.with_interval(float("nan"), None) == "-"
    assert markdown.with_interval(1.0, None) == "1.0 [-]"
    assert markdown.with_interval(-1.0, Interval(-2, 3), "+.1f") == "-1.0 [-2.0, +3.0]"
