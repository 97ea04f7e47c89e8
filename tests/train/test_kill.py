"""Jobs that are killed at random moments end as the one that was not."""

import contextlib
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from qbench import records
from qbench.train import cells, process
from tests.train.test_cell import TINY, rows, weights

SMALL = [
    *(override for override in TINY if "env_steps" not in override.partition("=")[0]),
    "total_env_steps=1200",
    "algo.loop.exploration.env_steps=400",
    "log_interval_env_steps=50",
    "eval_interval_env_steps=400",
    "checkpoint_interval_env_steps=100",
]
DDPG = [override for override in SMALL if "exploration" not in override]
CASES = {
    "cartpole-none": (*SMALL, "env=cartpole"),
    "cartpole-qat8": (*SMALL, "env=cartpole", "quant=qat8", "num_seeds=4"),
    "lunarlander-none": (*SMALL, "env=lunarlander"),
    "lunarlander-qat8": (*SMALL, "env=lunarlander", "quant=qat8"),
    "pendulum-none": (*DDPG, "env=pendulum", "algo=ddpg"),
    "pendulum-qat8": (*DDPG, "env=pendulum", "algo=ddpg", "quant=qat8", "quant.scope=all"),
    "pixels-none": (
        *(override for override in SMALL if "hidden_sizes" not in override),
        "env=cartpole_pixels", "network=cnn", "env.screen_size=36", "num_seeds=1",
        "total_env_steps=300",
    ),
    "pixels-qat8": (
        *(override for override in SMALL if "hidden_sizes" not in override),
        "env=cartpole_pixels", "network=cnn", "env.screen_size=36", "num_seeds=1",
        "total_env_steps=300", "quant=qat8",
    ),
}  # fmt: skip
EXIT_CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


def start(run_dir):
    """The job of a run folder, in a process of its own."""
    command = [sys.executable, "-m", "qbench.train.job", str(run_dir)]
    with open(run_dir / "log.txt", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def prepared(composed, run_dir, overrides):
    cell = cells.Cell(composed(*overrides), run_dir)
    assert process.prepare(cell)
    return cell


def wait_for_rows(child, path):
    """Until the job has written something more, or has ended."""
    size = path.stat().st_size if path.exists() else 0
    while child.poll() is None and (not path.exists() or path.stat().st_size == size):
        time.sleep(0.02)


def kill_until_done(cell, rng, numbers, duration):
    """Start the job until it is done, killed by the next of the numbers each time; how many."""
    for used, number in enumerate(numbers):
        child = start(cell.run_dir)
        wait_for_rows(child, cell.run_dir / "records.jsonl")
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=rng.uniform(0, 0.7) * duration)
        child.send_signal(number)
        exit_code = child.wait(timeout=120)
        state = records.read_status(cell.run_dir)["state"]
        assert exit_code in (0, EXIT_CODES[number])
        if state == "done":  # A process may be killed on its way out, after its work.
            return used
        assert exit_code != 0
        assert state == ("running" if number == signal.SIGKILL else "interrupted")
    assert start(cell.run_dir).wait(timeout=300) == 0
    return len(numbers)


def assert_same(broken, whole):
    assert rows(broken) == rows(whole)
    ours, theirs = weights(broken), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for path in (whole / "calibration").iterdir():
        assert (broken / "calibration" / path.name).read_bytes() == path.read_bytes()
    seeds = [records.read_summary(run_dir)["seeds"] for run_dir in (broken, whole)]
    assert seeds[0] == seeds[1]


def check(case, composed, tmp_path, numbers):
    """Kill jobs of a case by each number, and compare each that ends in spite of it."""
    rng = random.Random(case)
    whole = prepared(composed, tmp_path / "whole", CASES[case])
    assert kill_until_done(whole, rng, [], 0.0) == 0
    duration = records.read_summary(whole.run_dir)["wall_s"]
    left, attempt = list(numbers), 0
    while left:
        broken = prepared(composed, tmp_path / str(attempt), CASES[case])
        left = left[kill_until_done(broken, rng, left, duration) :]
        assert_same(broken.run_dir, whole.run_dir)
        attempt += 1
        assert attempt < 10 * len(numbers)


@pytest.mark.parametrize(
    ("case", "numbers"),
    [
        ("cartpole-none", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT]),
        ("cartpole-qat8", [signal.SIGKILL]),
    ],
)
def test_kills_change_nothing(composed, tmp_path, case, numbers):
    check(case, composed, tmp_path, numbers)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_dozen_kills_change_nothing(composed, tmp_path, case):
    """Eight cases: 104 kills."""
    check(case, composed, tmp_path, random.Random(case).choices(list(EXIT_CODES), k=13))
