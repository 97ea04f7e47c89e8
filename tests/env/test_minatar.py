"""MinAtarEnv: boards, seeds that decide episodes, the time limit."""

import numpy as np
import pytest

from qbench.env.minatar import MinAtarEnv
from tests.env.steps import actions, assert_same_play, episode, play

pytest.importorskip("minatar", reason="the minatar extra is not installed")

GAMES = {  # planes, actions of the minimal set
    "asterix": (4, 5),
    "breakout": (4, 3),
    "freeway": (7, 3),
    "seaquest": (10, 6),
    "space_invaders": (6, 4),
}


def minatar(game, *, sticky_action_prob=0.1, max_episode_steps=5000, stepping="serial"):
    return MinAtarEnv(
        game=game,
        sticky_action_prob=sticky_action_prob,
        max_episode_steps=max_episode_steps,
        stepping=stepping,
    )


@pytest.mark.parametrize("game", GAMES)
def test_boards_are_planes_of_zero_and_one(game):
    spec = minatar(game).describe()
    planes, num_actions = GAMES[game]
    assert (spec.obs_shape, spec.obs_high, spec.frame_stack) == ((planes, 10, 10), 1, 1)
    assert (spec.num_actions, spec.max_episode_steps) == (num_actions, 5000)
    obs, _ = episode(minatar(game).make(), actions(spec, 200, 1)[:, 0], 0)
    assert obs.dtype == np.uint8
    assert set(np.unique(obs)) == {0, 1}


def test_planes_are_minatars_own_in_its_order():
    env = minatar("breakout").make()
    obs, _ = env.reset(seed=1)
    board = env.unwrapped.game.state()
    for plane in range(4):
        np.testing.assert_array_equal(obs[plane], board[:, :, plane])
    paddle, bricks = obs[0], obs[3]
    assert paddle[9, 4] == 1 and paddle.sum() == 1
    assert bricks[1:4].all() and bricks.sum() == 30


@pytest.mark.parametrize("game", GAMES)
def test_the_seed_of_a_reset_decides_the_episode_whatever_was_played_before(game):
    env = minatar(game, sticky_action_prob=0.5)
    acts = actions(env.describe(), 300, 1)[:, 0]
    used = env.make()
    for seed in (8, 9):
        episode(used, acts, seed)
    fresh, again, unlike = episode(env.make(), acts, 3), episode(used, acts, 3), None
    np.testing.assert_array_equal(fresh[0], again[0])
    assert fresh[1] == again[1]
    unlike = [episode(env.make(), acts, seed)[0] for seed in (4, 5, 6)]
    assert not all(np.array_equal(fresh[0], other) for other in unlike)


def test_an_endless_game_is_truncated():
    env = minatar("freeway", max_episode_steps=7)
    _, steps = play(env.make_training(2), np.zeros((14, 2), np.int64), [0, 1])
    assert [t for t, step in enumerate(steps) if step.ended.all()] == [6, 13]
    assert not any(step.terminated.any() for step in steps)


def test_worker_processes_change_no_bit():
    env, workers = minatar("seaquest"), minatar("seaquest", stepping="processes")
    acts = actions(env.describe(), 300, 3)
    serial = play(env.make_training(3), acts, range(3))
    assert sum(step.ended.sum() for step in serial[1]) > 3
    assert_same_play(serial, play(workers.make_training(3), acts, range(3)))
