"""Sweeps: what is trained, in which order, and how it ends."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from qbench import records
from qbench.report import folders
from qbench.train import cells, pool, process
from qbench.train.errors import ConfigError
from qbench.train.launch import incompatibilities
from qbench.train.pool import Job
from tests.train.fakes import DONE, KILLED, RAISES, SLEEPS

TINY = [f"total_env_steps={DONE}", "num_seeds=2", "sweep=s"]
SWEEP = Path("multirun/s")


def states():
    return {
        re.sub("-[0-9a-f]{8}$", "", path.name): records.read_status(path)["state"]
        for path in SWEEP.iterdir()
        if path.is_dir()
    }


def only(pattern):
    (path,) = SWEEP.glob(pattern)
    return path


def test_a_grid_is_trained_and_ends_with_its_table(qbench_main, capfd):
    assert qbench_main("-m", "env=cartpole,acrobot", "quant=none,qat8", *TINY) == 0
    assert states() == dict.fromkeys(
        ["cartpole-mlp-none-dqn", "cartpole-mlp-qat8-dqn",
         "acrobot-mlp-none-dqn", "acrobot-mlp-qat8-dqn"], "done")  # fmt: skip
    out = capfd.readouterr().out
    assert out.splitlines()[-2:] == ["table of 4", "report of 4 True"]
    assert re.search(r"^done     cartpole-mlp-qat8-dqn-\w{8}  \d+\.\d min$", out, re.M)


def test_the_command_that_a_report_gives_trains_the_same_cell_elsewhere(qbench_main):
    assert qbench_main("experiment=smoke", "sweep=s", "quant=none,qat8") == 0
    cell = only("*-qat8-*")
    command = folders.repeat_command(cell)
    assert qbench_main(*shlex.split(command)[3:]) == 0
    assert [path.name for path in Path("multirun/repeated").iterdir()] == [cell.name]
    assert (Path("multirun/repeated") / cell.name / "summary.json").exists()


def test_ptq_is_made_from_its_none_cell_which_is_trained_first_and_once(qbench_main, capfd):
    assert qbench_main("-m", "quant=ptq,ptq8,ptq4", "n_jobs=3", *TINY) == 0
    base = only("*-none-*")
    ends = records.read_summary(base)["span"][1]
    for pattern in ("*-ptq8-*", "*-ptq4-*"):
        summary = records.read_summary(only(pattern))
        assert summary["base"] == str(base)
        assert summary["span"][0] >= ends
    out = capfd.readouterr().out
    assert out.count("start") == 3
    assert "table of 3" in out


def test_a_ptq_cell_whose_base_fails_says_so(qbench_main):
    assert qbench_main("-m", "quant=ptq8", "sweep=s", f"total_env_steps={RAISES}") == 1
    reason = records.read_status(only("*-ptq8-*"))["reason"]
    assert f"its quant=none cell {only('*-none-*').name} is failed: ValueError" in reason


def test_what_is_done_is_skipped_and_more_seeds_are_trained(qbench_main, capfd):
    assert qbench_main("-m", "quant=none,qat8", *TINY) == 0
    first = records.read_summary(only("*-qat8-*"))["span"]
    assert qbench_main("-m", "quant=qat8", *TINY, "num_seeds=1") == 0
    assert records.read_summary(only("*-qat8-*"))["span"] == first
    assert "was there already" in capfd.readouterr().out
    assert qbench_main("-m", "quant=qat8", *TINY, "num_seeds=3") == 0
    assert records.read_summary(only("*-qat8-*"))["num_seeds"] == 3


def test_seeds_whose_addition_stopped_or_failed_do_not_take_the_first_with_them(qbench_main):
    assert qbench_main("-m", "quant=qat8", *TINY, "num_seeds=1") == 0
    cell = only("*-qat8-*")
    for state in ("interrupted", "failed"):
        records.write_status(cell, state, "while seeds were added")
        assert qbench_main("-m", "quant=qat8", *TINY, "num_seeds=1") == 0
        assert records.read_status(cell)["state"] == "done"


def test_a_failure_or_a_kill_does_not_stop_the_others(qbench_main):
    budgets = f"total_env_steps={RAISES},{KILLED},{DONE}"
    assert qbench_main("-m", budgets, "num_seeds=1", "sweep=s") == 1
    ends = sorted(records.read_status(path)["state"] for path in SWEEP.glob("cartpole-*"))
    assert ends == ["done", "failed", "failed"]


def test_nonsense_is_skipped_with_its_reason_and_is_no_failure(qbench_main, capfd):
    arguments = ["-m", "env=gym", "env.id=Pendulum-v1,CartPole-v0", *TINY]
    assert qbench_main(*arguments) == 0
    skipped = only("Pendulum-v1-*")
    assert states() == {
        "Pendulum-v1-mlp-none-dqn": "skipped",
        "CartPole-v0-mlp-none-dqn": "done",
    }
    assert records.read_status(skipped)["reason"].startswith("DQN needs a Discrete action space")
    assert (skipped / ".hydra" / "config.yaml").exists()


@pytest.mark.parametrize(
    "axis", ["num_seeds=2,0", "quant=none,qat9", "quant=qat8 quant.weights.bits=8,9", "seed=0,1"]
)
def test_one_wrong_cell_and_nothing_starts(qbench_main, workplace, capfd, axis):
    assert qbench_main("-m", *axis.split()) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert list(workplace.iterdir()) == []


def test_no_more_jobs_run_at_once_than_asked_for(qbench_main):
    rates = "algo.learner.gamma=0.1,0.2,0.3,0.4"
    assert qbench_main("-m", rates, "n_jobs=1", *TINY) == 0
    spans = sorted(records.read_summary(path)["span"] for path in SWEEP.glob("cartpole-*"))
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_longest_cells_start_first(composed):
    def cost(*overrides):
        return Job(cells.from_config(composed(*overrides))).cost

    assert cost("quant=ptq8") < cost("quant=none") < cost("quant=qat8")
    assert cost("num_seeds=10") > cost("num_seeds=5")
    assert cost("total_env_steps=400000") > cost("quant=qat8")


def test_another_launcher_trains_the_same_cells(qbench_main):
    arguments = ["-m", "quant=ptq8", "env=gym", "env.id=CartPole-v0,Pendulum-v1", *TINY]
    assert qbench_main(*arguments, "hydra/launcher=basic") == 0
    assert states() == {
        "CartPole-v0-mlp-none-dqn": "done",
        "CartPole-v0-mlp-ptq8-dqn": "done",
        "Pendulum-v1-mlp-ptq8-dqn": "skipped",
    }
    assert records.read_summary(only("CartPole*ptq8*"))["base"].endswith(only("*-none-*").name)


def test_what_has_failed_is_trained_again_only_when_asked_for(qbench_main, capfd):
    arguments = ["-m", f"total_env_steps={RAISES}", "num_seeds=1", "sweep=s"]
    assert qbench_main(*arguments) == 1
    assert "start" in capfd.readouterr().out
    assert qbench_main(*arguments) == 1
    out = capfd.readouterr().out
    assert "start" not in out
    assert "ValueError: the weights are not finite (retry_failed=true tries it again)" in out
    assert qbench_main(*arguments, "retry_failed=true") == 1
    assert "start" in capfd.readouterr().out
    reason = records.read_status(only("cartpole-*"))["reason"]
    assert reason == "ValueError: the weights are not finite"


def test_the_first_failure_ends_a_sweep_that_fails_fast(qbench_main, capfd):
    budgets = f"total_env_steps={SLEEPS},{RAISES},{DONE}"
    arguments = ["-m", budgets, "num_seeds=1", "sweep=s", "n_jobs=2", "fail_fast=true"]
    assert qbench_main(*arguments) == 1
    states = {p.name: records.read_status(p)["state"] for p in SWEEP.glob("cartpole-*")}
    assert sorted(states.values()) in (["failed"], ["failed", "interrupted"])
    assert "nothing more is started" in capfd.readouterr().out


def test_two_cells_never_share_a_folder(composed):
    one, two = (
        cells.Cell(composed(f"algo.learner.gamma={gamma}"), Path("multirun/s/same"))
        for gamma in (0.5, 0.6)
    )
    with pytest.raises(ConfigError, match="would share the folder"):
        incompatibilities([one, two])


def test_a_cell_of_another_process_is_left_alone(qbench_main, qbench_process, capfd, monkeypatch):
    monkeypatch.setattr(pool, "BUSY_GRACE_S", 0.2)
    arguments = ["-m", f"total_env_steps={SLEEPS}", "sweep=s"]
    other = qbench_process(*arguments)
    try:
        assert other.stdout.readline().startswith("start")
        while not list(SWEEP.glob("*/records.jsonl")):
            pass
        assert qbench_main(*arguments) == 1
        assert "it is being trained by another process" in capfd.readouterr().out
        assert list(states().values()) == ["running"]
    finally:
        other.terminate()
        other.communicate(timeout=60)
    assert list(states().values()) == ["interrupted"]


def test_a_job_asks_for_huge_pages_unless_somebody_has_decided():
    asked = "glibc.malloc.hugetlb=1"
    assert process.environment({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": asked}
    other = {"GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert process.environment(other)["GLIBC_TUNABLES"] == f"glibc.malloc.check=3:{asked}"
    decided = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    assert process.environment(decided) == decided
    assert process.environment(process.environment({})) == process.environment({})
