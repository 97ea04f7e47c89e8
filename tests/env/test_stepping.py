"""SerialEnvs against hand-worked episodes; ProcessEnvs against SerialEnvs; workers that die."""

import functools
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from qbench.env.gym import GymnasiumEnv
from qbench.env.stepping import ProcessEnvs, SerialEnvs, check_stepping
from tests.env.steps import actions, assert_same_play, play
from tests.toys import Counter


class Lifelike(gymnasium.Env):
    """Bytes; says in info that its reward 3 is learned from as 1, and that it never ends."""

    observation_space = spaces.Box(0, 9, (2,), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.uint8), {}

    def step(self, action):
        return np.full(2, 9, np.uint8), 1.0, True, False, {"score": 3.0, "is_over": False}


MAKE_CARTPOLE = functools.partial(gymnasium.make, "CartPole-v1")


def two_counters():
    _, steps = play(SerialEnvs([Counter(), Counter()]), np.ones((12, 2), np.int64), (5, 6))
    return steps


def test_next_obs_is_the_final_observation_and_obs_the_reset():
    steps = two_counters()
    # Episodes of lengths 2, 3, 4, ... that observe [episode, t].
    assert steps[1].next_obs[0, :2].tolist() == [0, 2]
    assert steps[1].obs[0, :2].tolist() == [1, 0]
    assert steps[4].next_obs[0, :2].tolist() == [1, 3]
    assert steps[4].obs[0, :2].tolist() == [2, 0]


def test_truncation_ends_an_episode_without_terminating_it():
    steps = two_counters()
    assert [t for t, step in enumerate(steps) if step.ended[0]] == [1, 4, 8, 10]
    assert [t for t, step in enumerate(steps) if step.terminated[0]] == [1, 8]
    assert [t for t, step in enumerate(steps) if step.is_over[0]] == [1, 4, 8, 10]


def test_later_resets_draw_from_each_envs_own_generator():
    steps = two_counters()
    drawn = [steps[t].obs[k, 2] for k in (0, 1) for t in (1, 4, 8, 10)]
    expected = []
    for seed in (5, 6):
        rng = np.random.default_rng(seed)
        expected += [float(rng.integers(1000)) for _ in range(5)][1:]
    assert drawn == expected


def test_score_and_end_of_the_game_are_what_info_says():
    envs = SerialEnvs([Lifelike()])
    assert envs.reset([0]).dtype == np.uint8
    step = envs.step(np.array([1]))
    assert (step.reward[0], step.score[0]) == (1.0, 3.0)
    assert step.terminated[0] and step.ended[0] and not step.is_over[0]
    assert step.next_obs.dtype == step.obs.dtype == np.uint8
    assert step.next_obs.tolist() == [[9, 9]] and step.obs.tolist() == [[0, 0]]


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_worker_processes_change_no_bit(id):
    env = GymnasiumEnv(id=id, kwargs={}, stepping="processes")
    acts = actions(env.describe(), 300, 5)
    serial = play(SerialEnvs([env.make() for _ in range(5)]), acts, range(5))
    processes = play(ProcessEnvs(env.make, num_seeds=5, num_processes=2), acts, range(5))
    assert_same_play(serial, processes)


def test_an_error_in_a_worker_is_told_by_the_parent():
    envs = ProcessEnvs(functools.partial(gymnasium.make, "NoPole-v1"), num_seeds=1)
    with pytest.raises(RuntimeError, match="NoPole"):
        envs.reset([0])
    envs.close()


def test_a_dead_worker_is_an_error_and_not_a_wait():
    envs = ProcessEnvs(MAKE_CARTPOLE, num_seeds=1)
    envs.reset([0])
    envs._processes[0].kill()
    with pytest.raises(RuntimeError, match="died"):
        envs.step(np.array([0]))
    envs.close()


def test_closing_ends_workers_that_nobody_reads():
    envs = ProcessEnvs(MAKE_CARTPOLE, num_seeds=2, num_processes=2)
    envs.reset([0, 1])
    for connection in envs._connections:
        connection.send(("step", (np.array([0]),)))
    envs.close()
    assert [process.exitcode for process in envs._processes] == [0, 0]


# A shell's job in the background, such as a whole test run, begins with SIGINT ignored.
PARENT = """
import functools, signal, time
import gymnasium
from qbench.env.stepping import ProcessEnvs
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    make = functools.partial(gymnasium.make, "CartPole-v1")
    envs = ProcessEnvs(make, num_seeds=1)
    envs.reset([0])
    print(envs._processes[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_their_parent(sent, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.send_signal(sent)
        parent.wait(timeout=60)
    until = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(worker)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_stepping_that_is_not_there_is_refused_by_name():
    with pytest.raises(ValueError, match=r"env\.stepping=parallel must be one of"):
        check_stepping("parallel", "CartPole-v1")
    with pytest.raises(ValueError, match=r"env\.stepping=vector .* Acrobot-v1 takes serial"):
        check_stepping("vector", "Acrobot-v1")
