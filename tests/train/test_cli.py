"""The command line: help, sentences, precedence, signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qbench import records
from qbench.train.conf import conf_dir
from tests.train.fakes import DONE, RAISES, REFUSES, SLEEPS

TINY = [f"total_env_steps={DONE}", "num_seeds=1", "sweep=s"]


def finished(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def the_config(pattern="multirun/s/*/.hydra/config.yaml"):
    (path,) = Path().glob(pattern)
    return OmegaConf.load(path)


def test_help_names_every_choice_of_every_group(qbench_process):
    code, out, _ = finished(qbench_process("--help"))
    assert code == 0
    words = out.replace(",", "").split()
    assert max(len(line) for line in out.splitlines()) <= 92
    for group in ("env", "network", "quant", "algo", "trainer", "logger", "experiment"):
        choices = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        first = words.index(f"{group}:") + 1
        assert words[first : first + len(choices)] == choices


def test_help_beside_other_arguments_is_the_same(qbench_process):
    assert finished(qbench_process("seed=0", "-h")) == finished(qbench_process("--help"))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_and_config_are_shown_without_importing_anything_heavy(workplace, arguments):
    script = (
        f"import sys; from qbench.__main__ import main; sys.argv = ['qbench', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'pytorch_lightning', 'wandb', 'gymnasium', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_single_run_ends_with_its_own_table(qbench_main, capfd):
    assert qbench_main(*TINY) == 0
    out = capfd.readouterr().out
    assert "threads 1 1 1" in out  # The job writes to this terminal.
    assert out.splitlines()[-1] == "table of 1"
    assert the_config().total_env_steps == DONE


def test_alone_or_swept_a_cell_has_one_name(qbench_main, capfd):
    assert qbench_main(*TINY) == 0
    assert qbench_main("-m", *TINY) == 0
    assert "was there already" in capfd.readouterr().out


@pytest.mark.parametrize(("budget", "code"), [(RAISES, 1), (REFUSES, 2)])
def test_a_single_run_leaves_by_the_code_of_its_job(qbench_main, capfd, budget, code):
    assert qbench_main(f"total_env_steps={budget}") == code
    err = capfd.readouterr().err
    assert ("Traceback" in err) == (code == 1)
    assert code == 1 or err == "trainer=gpu needs a CUDA device.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("quant=qat9", "quant=qat9 is unknown, did you mean qat8"),
        ("experiment=smoky", "experiment=smoky is unknown, did you mean smoke"),
        ("nm_seeds=3", "nm_seeds is not a key here, did you mean num_seeds"),
        ("quan=qat8", "quan is not a key here, did you mean quant"),
        ("quant=qat8 quant.weigths.bits=4", "is not a key of quant=qat8, did you mean quant.wei"),
        ("quant.weights.bits=4", "quant.weights.bits is not a key of quant=none:"),
        ("num_seeds", "num_seeds is not of the form key=value"),
        ("num_seeds=[1", "num_seeds=[1 cannot be read as key=value"),
        ("quant=none,qat8", "quant=none,qat8 has several values: add -m to train them all."),
        ("quant=8", "quant=8 does not name a choice of each group"),
        ("+num_seeds=3", "num_seeds is there already: leave out the + before it."),
        ("seed=${nothing}", "Interpolation key 'nothing' not found"),
        ("num_seeds=0", "num_seeds=0 will not do"),
        ("env=gym env.id=Pendulum-v1", "DQN needs a Discrete action space"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    qbench_main, workplace, capfd, arguments, sentence
):
    assert qbench_main(*arguments.split()) == 2
    out, err = capfd.readouterr()
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert list(workplace.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(qbench_main, capfd):
    Path("multirun").write_text("a file is in the way")
    for mode in ([], ["-m"]):
        assert qbench_main(*mode, *TINY) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1
    assert Path("multirun").read_text() == "a file is in the way"


def test_damaged_results_are_not_overwritten(qbench_main, capfd):
    assert qbench_main(*TINY) == 0
    (status,) = Path().glob("multirun/s/*/status.json")
    status.write_text("{")
    capfd.readouterr()
    for mode in ([], ["-m"]):
        assert qbench_main(*mode, *TINY) == 2
        (sentence,) = capfd.readouterr().err.splitlines()
        assert "is not valid JSON" in sentence
        assert sentence.endswith("Remove its folder to train the cell again.")
    assert status.read_text() == "{"


def test_an_experiment_is_a_sweep_by_itself_and_the_command_line_wins(qbench_main):
    assert qbench_main("experiment=smoke", "num_seeds=2", "quant=none,ptq8") == 0
    names = sorted(path.name.split("-")[2] for path in Path("multirun/smoke").glob("cartpole-*"))
    assert names == ["none", "ptq8"]
    cfg = the_config("multirun/smoke/*-none-*/.hydra/config.yaml")
    assert (cfg.num_seeds, cfg.total_env_steps, cfg.algo.loop.learning_starts) == (2, 2000, 500)


@pytest.fixture
def plugin(tmp_path):
    """A config folder outside the package: an env with a tune file, a scheme, an experiment."""
    files = {
        "env/toy.yaml": "_target_: toy.Env\nid: Toy-v0\n",
        "quant/toy.yaml": "_target_: toy.Scheme\nlevels: 3\n",
        "tune/dqn_toy.yaml": (
            "# @package _global_\n"
            "algo: {learner: {gamma: 0.5, max_grad_norm: 0.5, learning_rate: 0.5}}\n"
        ),
        "experiment/toy.yaml": (
            "# @package _global_\ndefaults:\n  - override /env: toy\n"
            "algo: {learner: {max_grad_norm: 0.25, learning_rate: 0.25}}\n"
        ),
    }
    for name, content in files.items():
        path = tmp_path / "plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return f"hydra.searchpath=[file://{tmp_path / 'plugin'}]"


def test_a_scheme_is_one_yaml_outside_the_package(qbench_main, plugin):
    assert qbench_main("-m", plugin, "quant=toy,none", *TINY) == 0
    (status,) = Path().glob("multirun/s/cartpole-mlp-toy-dqn-*/status.json")
    assert records.read_status(status.parent)["state"] == "done"
    assert records.read_summary(status.parent)["quant"] == "toy"


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_the_command_line_beats_the_experiment_which_beats_the_tune_file(qbench_main, plugin, mode):
    arguments = [*mode, plugin, "experiment=toy", "algo.learner.learning_rate=0.125", *TINY]
    assert qbench_main(*arguments) == 0
    learner = the_config().algo.learner
    assert (learner.gamma, learner.max_grad_norm, learner.learning_rate) == (0.5, 0.25, 0.125)


def test_each_swept_env_gets_its_own_tune_file(qbench_main, plugin):
    assert qbench_main("-m", plugin, "env=toy,acrobot", *TINY) == 0
    assert the_config("multirun/s/toy-*/.hydra/config.yaml").algo.learner.gamma == 0.5
    assert the_config("multirun/s/acrobot-*/.hydra/config.yaml").algo.learner.gamma != 0.5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("mode", [["quant=ptq8"], ["-m", "quant=none,qat8,qat4", "n_jobs=2"]])
def test_a_stopped_command_stops_its_jobs_and_prints_its_table(qbench_process, mode, number, code):
    command = qbench_process(*mode, f"total_env_steps={SLEEPS}", "sweep=s")
    num_jobs = 2 if "-m" in mode else 1
    deadline = time.monotonic() + 60
    while len(list(Path().glob("multirun/s/*/records.jsonl"))) < num_jobs:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.send_signal(number)
    exit_code, out, _ = finished(command)
    assert exit_code == code
    assert f"table of {num_jobs}" in out
    # Who stops a command waits for no page: the sweep's tables are written, and that is all.
    assert ("report of 2 False" in out) == ("-m" in mode)
    rest = "; 1 of its cells had not begun" if "-m" in mode else ""
    assert out.splitlines()[-1] == f"The same command goes on from what was saved{rest}."
    states = [records.read_status(path)["state"] for path in Path("multirun/s").glob("cartpole-*")]
    assert [state for state in states if state] == ["interrupted"] * num_jobs


def test_help_whose_reader_leaves_early_ends_quietly(workplace):
    process = subprocess.Popen(
        [sys.executable, "-m", "qbench", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 0)
    process.stderr.close()
