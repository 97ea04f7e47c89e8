"""Schedules against values worked by hand."""

import pytest

from qbench.schedule import Linear, crossed


@pytest.mark.parametrize(("env_step", "value"), [(0, 1.0), (50, 0.55), (100, 0.1), (1000, 0.1)])
def test_linear_schedule_ends_at_its_end(env_step, value):
    assert Linear(start=1.0, end=0.1, env_steps=100)(env_step) == pytest.approx(value)


def test_a_schedule_of_no_steps_is_its_end():
    assert Linear(start=1.0, end=0.1, env_steps=0)(0) == 0.1


@pytest.mark.parametrize(
    ("interval", "before", "after", "expected"),
    [
        (10, 0, 9, False),
        (10, 9, 10, True),
        (10, 10, 19, False),
        (10, 8, 16, True),
        (0, 0, 99, False),
    ],
)
def test_crossed_counts_the_end_and_not_the_start(interval, before, after, expected):
    assert crossed(interval, before, after) is expected
