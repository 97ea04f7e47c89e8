"""One cell in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qbench import records
from qbench.train import cells, job, process
from qbench.train.errors import ConfigError
from tests.train.fakes import DONE, KILLED, RAISES, REFUSES, SLEEPS


@pytest.fixture
def prepared(composed, workplace):
    def prepare(budget, *overrides):
        cfg = composed(f"total_env_steps={budget}", "num_seeds=2", *overrides)
        cell = cells.from_config(cfg)
        assert process.prepare(cell)
        return cell

    return prepare


def run(cell):
    child = process.start(cell, None, has_log_file=True)
    return process.conclude(cell, child.wait(timeout=60))


def wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_finished_job_is_done_with_its_own_threads_and_without_torch_before(prepared):
    cell = prepared(DONE, "trainer.num_threads=3")
    assert run(cell) == process.Outcome("done")
    assert "threads 3 3 1 torch False" in (cell.run_dir / "log.txt").read_text()
    assert records.read_summary(cell.run_dir)["network"] == "mlp"


def test_a_failed_job_leaves_its_reason_and_traceback(prepared):
    cell = prepared(RAISES)
    assert run(cell) == ("failed", 1, "ValueError: the weights are not finite")
    assert 'raise ValueError("the weights' in records.read_status(cell.run_dir)["traceback"]
    assert "Traceback" in (cell.run_dir / "log.txt").read_text()


def test_a_killed_job_is_reported_by_its_parent(prepared):
    cell = prepared(KILLED)
    state, exit_code, reason = run(cell)
    assert (state, exit_code) == ("failed", 1)
    assert reason == "killed by signal 9 (SIGKILL), often out of memory"
    assert records.read_status(cell.run_dir)["reason"] == reason


def test_a_job_that_cannot_run_on_this_machine_is_refused_without_a_traceback(prepared):
    cell = prepared(REFUSES)
    assert run(cell) == ("failed", 2, "trainer=gpu needs a CUDA device.")
    assert records.read_status(cell.run_dir)["traceback"] is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_job_is_interrupted_and_its_records_stay(prepared, number, code):
    cell = prepared(SLEEPS)
    child = process.start(cell, None, has_log_file=True)
    wait_for(cell.run_dir / "records.jsonl")
    child.send_signal(number)
    outcome = process.conclude(cell, child.wait(timeout=60))
    assert outcome == ("interrupted", code, f"interrupted by {number.name}")
    assert len(records.read_records(cell.run_dir)) == 1


def test_a_job_stopped_before_it_could_speak_is_interrupted_too(prepared):
    cell = prepared(SLEEPS)
    child = process.start(cell, None, has_log_file=True)
    child.terminate()
    outcome = process.conclude(cell, child.wait(timeout=60))
    assert outcome == ("interrupted", 143, "interrupted by SIGTERM")


def test_two_processes_never_train_one_cell(prepared):
    cell = prepared(DONE)
    with job.cell_lock(cell.run_dir):
        assert run(cell) == ("failed", 1, "it is being trained by another process")
        with pytest.raises(job.Busy):
            process.prepare(cell)
    assert records.read_status(cell.run_dir)["state"] == "running"
    assert run(cell).state == "done"


def test_a_restart_removes_what_an_unfinished_attempt_left(prepared):
    cell = prepared(RAISES)
    run(cell)
    assert process.prepare(cell)
    assert not (cell.run_dir / "records.jsonl").exists()
    assert records.read_status(cell.run_dir)["state"] == "running"


def test_a_finished_cell_is_not_touched_and_kept_when_more_seeds_are_wanted(prepared):
    cell = prepared(DONE)
    run(cell)
    assert not process.prepare(cell)
    cell.cfg.num_seeds = 3
    assert process.prepare(cell)
    assert json.loads((cell.run_dir / "summary.json").read_text())["num_seeds"] == 2
    assert process.beginning(cell).startswith("add to")


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(prepared):
    cell = prepared(DONE)
    run(cell)
    cell.cfg.num_seeds = 3
    cell.cfg.algo.learner.gamma = 0.5
    with pytest.raises(ConfigError, match=r"algo\.learner\.gamma is 0\.99 there and 0\.5 here"):
        process.prepare(cell)


def test_seeds_with_other_files_are_not_added(prepared):
    cell = prepared(DONE)
    run(cell)
    cell.cfg.formats = []
    process.check_settings(cell)  # Nothing is added, so nothing is refused.
    cell.cfg.num_seeds = 3
    with pytest.raises(ConfigError, match=r"formats is \['onnx', 'c'\] there and \[\] here"):
        process.check_settings(cell)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.45 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_a_lack_of_memory_is_called_so(error):
    assert job.failure(error).reason.startswith("out of memory, lower num_seeds, replay.capacity")


def test_a_job_does_not_outlive_the_command_that_started_it(prepared):
    cell = prepared(SLEEPS)
    starter = (
        "import subprocess, sys, os, time\n"
        f"command = [sys.executable, '-m', 'qbench.train.job', {str(cell.run_dir)!r},"
        " '--parent', str(os.getpid())]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter])
    wait_for(cell.run_dir / "records.jsonl")
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while records.read_status(cell.run_dir)["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert records.read_status(cell.run_dir)["reason"] == "interrupted by SIGTERM"


def test_the_config_is_resolved_and_complete_in_the_folder(prepared):
    cell = prepared(DONE, "quant=ptq")
    cfg = job.load_config(cell.run_dir)
    assert cells.plain(cfg, ("hydra",)) == cells.plain(cell.cfg, ("hydra",))
    assert cells.axes_of(cfg)["quant"] == "ptq8"
    assert cfg.hydra.runtime.output_dir == str(cell.run_dir.absolute())


def test_a_folder_that_is_no_run_folder_is_refused(workplace):
    child = subprocess.run(
        [sys.executable, "-m", "qbench.train.job", str(workplace)], capture_output=True, text=True
    )
    assert child.returncode == 2
    assert child.stderr.startswith(f"{workplace} is not a run folder")
