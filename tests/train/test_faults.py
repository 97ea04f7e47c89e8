"""Faults that a sweep meets: jobs and commands that die, disks, and a server that is away."""

import collections
import errno
import os
import resource
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from qbench import records
from qbench.report.folders import BROKEN, load_cell
from qbench.train import cells, job, process, wandb_log
from tests.report.wandb_server import Server
from tests.train.fakes import DONE, EXHAUSTS, KILLED, OTHERS, RAISES
from tests.train.test_cell import compose_config, rows, run, train_cell, weights
from tests.train.test_cells import summary

AXES = {"env": "cartpole", "network": "mlp", "quant": "none", "algo": "dqn"}


def lines(name):
    path = Path(name)
    return path.read_text().split() if path.exists() else []


def wait_for_ends(number, command):
    deadline = time.monotonic() + 120
    while len(lines("ended.txt")) < number and command.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sweep_survives_three_bad_cells_and_two_deaths_of_its_command(qbench_process):
    budgets = [RAISES, KILLED, EXHAUSTS, *range(OTHERS, OTHERS + 21)]
    arguments = ["-m", f"total_env_steps={','.join(map(str, budgets))}", "num_seeds=1", "sweep=s"]
    arguments += ["n_jobs=4"]
    for number in (5, 12):
        command = qbench_process(*arguments)
        wait_for_ends(number, command)
        command.kill()
        command.communicate()
    command = qbench_process(*arguments)
    out, err = command.communicate(timeout=120)
    assert command.returncode == 1, out + err
    status = [records.read_status(path) for path in Path("multirun/s").glob("cartpole-*")]
    assert collections.Counter(each["state"] for each in status) == {"done": 21, "failed": 3}
    reasons = sorted(each["reason"] for each in status if each["state"] == "failed")
    assert reasons[0] == "ValueError: the weights are not finite"
    assert reasons[1] == "killed by signal 9 (SIGKILL), often out of memory"
    assert reasons[2].startswith("out of memory, lower num_seeds, replay.capacity or n_jobs")
    ended, started = (collections.Counter(lines(f"{name}.txt")) for name in ("ended", "started"))
    failed = {p.name for p in Path("multirun/s").glob("cartpole-*")} - set(ended)
    assert set(ended.values()) == {1} and len(ended) == 21
    assert [started[name] for name in failed] == [1, 1, 1]
    # Started again were at most those that ran, four at once, when their command died.
    assert sum(started.values()) - 24 <= 2 * 4


@contextmanager
def file_size_limit(limit):
    """A disk that is full after some bytes, for every file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_training_stops_at_a_full_disk_and_goes_on_when_there_is_room(tmp_path, capsys):
    whole, cut = run(tmp_path / "whole"), tmp_path / "cut"
    size = (whole / "records.jsonl").stat().st_size
    cut.mkdir()
    with pytest.raises((OSError, RuntimeError)) as raised, file_size_limit(size // 2):
        train_cell(compose_config(), cut, AXES, None)
    end = job.failure(raised.value)
    assert (end.state, end.exit_code, end.traceback) == ("failed", 1, None)
    assert end.reason.startswith("a file has reached the size that is allowed")
    assert "No checkpoint at env step" in capsys.readouterr().out
    assert all(set(row) >= set(records.REQUIRED_RECORD_KEYS) for row in records.read_records(cut))
    assert not list(cut.rglob("*.tmp"))
    train_cell(compose_config(), cut, AXES, None)
    assert rows(cut) == rows(whole)
    assert all(torch.equal(weights(cut)[name], w) for name, w in weights(whole).items())


@pytest.mark.parametrize(
    ("number", "beginning"),
    [
        (errno.ENOSPC, "the disk is full (x): mend that, then the same command with"),
        (errno.EDQUOT, "the disk quota is used up (x)"),
        (errno.EROFS, "the file system is read-only (x)"),
    ],
)
def test_a_fault_of_the_disk_is_named_without_a_traceback(number, beginning):
    error = OSError(number, os.strerror(number), "x")
    wrapped = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
    wrapped.__context__ = error
    for each in (error, wrapped):
        end = job.failure(each)
        assert end.reason.startswith(beginning) and end.traceback is None
    assert "\n" in job.failure(OSError(errno.ENOENT, "no such file", "x")).traceback


@pytest.mark.parametrize("axes", [["quant=qat8"], ["env=gym", "env.id=Pendulum-v1"]])
def test_a_folder_that_takes_nothing_fails_its_own_cell(qbench_main, composed, capfd, axes):
    arguments = [*axes, f"total_env_steps={DONE}", "sweep=s"]
    name = cells.cell_name(composed(*arguments))
    other = cells.cell_name(composed(*arguments, "algo.learner.gamma=0.5"))
    Path("multirun/s").mkdir(parents=True)
    Path("multirun/s", name).write_text("a file where a folder should be")
    assert qbench_main("-m", *arguments, "algo.learner.gamma=0.99,0.5") == 1
    out, err = capfd.readouterr()
    assert f"failed   {name}  (multirun/s/{name} cannot be written: File exists.)" in out
    assert "Traceback" not in out + err
    assert records.read_status(Path("multirun/s", other))["state"] in ("done", "skipped")


def test_a_place_where_no_sweep_can_be_is_refused(qbench_main, capfd):
    Path("multirun").write_text("a file where a folder should be")
    assert qbench_main("-m", "quant=none,qat8", f"total_env_steps={DONE}", "sweep=s") == 2
    assert capfd.readouterr().err == "multirun/s cannot be used: Not a directory.\n"


def test_a_read_only_folder_is_a_failed_cell_and_stays_as_it_was(composed, tmp_path, monkeypatch):
    cell = cells.Cell(composed(), tmp_path / "cell")
    process.prepare(cell)
    before = {path: path.read_bytes() for path in cell.run_dir.rglob("*") if path.is_file()}

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(records, "write_text", refuse)
    outcome = process.settle(cell, process.Outcome("skipped", 2, "nonsense"))
    assert outcome.state == "failed"
    assert outcome.reason.endswith("status.json cannot be written either: Read-only file system")
    skipped = process.skip(cell, "nonsense")
    assert skipped.reason.endswith("cannot be written: Read-only file system.")
    assert before == {p: p.read_bytes() for p in cell.run_dir.rglob("*") if p.is_file()}


def test_a_report_reads_a_cell_that_is_being_written(tmp_path):
    run_dir, num_rounds = tmp_path / "cartpole-mlp-none-dqn-01234567", 40
    records.write_status(run_dir, "running")
    row = {"kind": "train", "seed": 0, "wall_s": 0.5, "loss": [0.25] * 3000}

    def write():
        for step in range(num_rounds):
            records.append_records(run_dir, [row | {"env_step": step}])
            records.write_summary(run_dir, summary(range(3)) | {"env_steps": step})
            records.write_status(run_dir, "done" if step % 2 else "running")

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while writer.is_alive():
        cell = load_cell(run_dir)
        found, fault = records.scan_records(run_dir)
        assert cell.state != BROKEN and fault is None
        assert len(found) >= seen and [each["env_step"] for each in found] == [*range(len(found))]
        seen = len(found)
    writer.join()
    assert len(records.read_records(run_dir)) == num_rounds


class Failing:
    """A run of wandb whose service is gone."""

    id = "abc"

    def __getattr__(self, name):
        raise BrokenPipeError("the service of key k-1234567890 is gone")

    def define_metric(self, *args, **kwargs):
        pass


def a_row(env_step):
    return {"kind": "train", "seed": 0, "env_step": env_step, "wall_s": 0.5, "loss": 0.25}


def begun(run_dir, mode):
    config = {"sweep": "s"}
    return wandb_log.WandbRun(
        mode=mode, project="p", run_dir=run_dir, axes={}, config=config, id=None
    )


def test_a_wandb_that_fails_in_between_is_left_out_with_one_sentence(tmp_path, monkeypatch, capsys):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "k-1234567890")
    monkeypatch.setattr(wandb, "init", lambda **kwargs: Failing())
    with begun(tmp_path, "online") as logged:
        logged.log([a_row(1), a_row(2)])
        logged.log([a_row(3)])
        logged.summarize({"return_iqm": 1.0})
    said = "Weights & Biases is left out from here: the service of key ... is gone.\n"
    assert capsys.readouterr().out == said


@pytest.fixture
def wandb_keys(monkeypatch):
    """A key and an address of this machine, and times that suit a test."""
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb_log, "INIT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(wandb_log, "FINISH_TIMEOUT_S", 2.0)
    return lambda address: monkeypatch.setenv("WANDB_BASE_URL", address)


def test_a_run_whose_wandb_server_is_away_is_kept_for_later(tmp_path, wandb_keys, capfd):
    server = Server()  # takes a port, and answers nobody
    wandb_keys(server.address)
    server.server_close()
    with begun(tmp_path, "online") as logged:
        logged.log([a_row(1)])
    out = capfd.readouterr().out
    assert out.startswith("Weights & Biases does not take this run: ")
    assert f"It is kept in {tmp_path}/wandb, for `wandb sync`." in out
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_wandb_server_that_goes_away_does_not_hold_up_a_training(tmp_path, wandb_keys):
    server = Server()
    wandb_keys(server.address)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with begun(tmp_path, "online") as logged:
        logged.log([a_row(1)])
        server.shutdown()
        server.server_close()
        logged.log([a_row(2)])
    thread.join(timeout=60)
    # Had it waited for the server, it would not be here; what was logged can be sent later.
    assert list((tmp_path / "wandb").glob("run-*/run-*.wandb"))
