"""AtariEnv: lives and games, rewards and scores, frames, seeds."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

import qbench
from qbench.env import atari
from tests.env.steps import actions, assert_same_play, episode, play

pytest.importorskip("ale_py", reason="the atari extra is not installed")
pytest.importorskip("cv2", reason="the atari extra (OpenCV) is not installed")

YAML = Path(qbench.__file__).parents[1] / "conf/env/atari.yaml"


def make(game="Breakout", *, stepping="serial", **changed):
    """The env of atari.yaml, but for what is changed."""
    groups = yaml.safe_load(YAML.read_text().replace("108_000", "108000"))
    known = {key for name in GROUPS for key in groups[name]}
    assert set(changed) <= known
    settings = {
        name: {key: changed.get(key, value) for key, value in groups[name].items()}
        for name in GROUPS
    }
    return atari.AtariEnv(id=f"ALE/{game}-v5", stepping=stepping, **settings)


GROUPS = ("emulator", "preprocessing", "training")


@functools.cache
def breakout():
    """900 steps of random Breakout as it is trained on."""
    env = make()
    return play(env.make_training(2), actions(env.describe(), 900, 2), [0, 1])


def column(name, k=0):
    return np.array([getattr(step, name)[k] for step in breakout()[1]])


def test_a_lost_life_ends_the_episode_and_the_fifth_the_game():
    assert (column("terminated") == column("ended")).all()
    ends = column("ended").nonzero()[0]
    is_over = column("is_over")[ends]
    assert len(ends) >= 10
    # Every game has five lives, and is over with the last.
    assert is_over[: len(ends) // 5 * 5].reshape(-1, 5).tolist() == (
        [[False] * 4 + [True]] * (len(ends) // 5)
    )


def test_a_game_goes_on_after_a_lost_life():
    lives = make().make_training(1)
    env = lives._envs[0]._env
    obs = lives.reset([0])
    emulator = env.unwrapped.ale
    while not (step := lives.step(np.array([2]))).ended[0]:
        frame = emulator.getEpisodeFrameNumber()
    # Only a start in between: one no-op, FIRE and the second action, four frames each.
    assert emulator.getEpisodeFrameNumber() <= frame + 4 + 3 * 4
    assert emulator.getEpisodeFrameNumber() > frame + 2 * 4
    assert emulator.lives() == 4
    assert step.obs.shape == obs.shape
    assert all((step.obs[0, i] == step.obs[0, 3]).all() for i in range(3))


def test_a_game_that_ends_while_a_life_is_started_is_over_with_the_next_step():
    # The first life is lost at frame 123 of 124: its no-op, FIRE and second action do not fit.
    frames = first_life_frames()
    env = make(max_episode_frames=frames + 1).make_training(1)
    env.reset([0])
    while not (step := env.step(np.array([0]))).ended[0]:
        assert not step.is_over[0]
    assert not step.is_over[0]  # A life, not the game.
    assert env.step(np.array([0])).is_over[0]
    assert env._envs[0]._env.unwrapped.ale.getEpisodeFrameNumber() < frames  # The next game.


def first_life_frames():
    """Frames of the first life of seed 0 that does nothing."""
    env = make().make_training(1)
    env.reset([0])
    while not env.step(np.array([0])).ended[0]:
        frame = env._envs[0]._env.unwrapped.ale.getEpisodeFrameNumber()
    return frame + 4


def test_clipped_rewards_are_the_signs_of_scores():
    env = make("BeamRider")
    _, steps = play(env.make_training(1), actions(env.describe(), 600, 1), [0])
    reward = np.array([step.reward[0] for step in steps])
    score = np.array([step.score[0] for step in steps])
    assert set(reward) == {0.0, 1.0}
    assert score.max() == 44.0  # points per enemy in the first sector
    np.testing.assert_array_equal(reward, np.sign(score))


def test_rewards_that_are_not_clipped_are_scores():
    env = make("BeamRider", clip_reward=False)
    _, steps = play(env.make_training(1), actions(env.describe(), 300, 1), [0])
    assert max(step.reward[0] for step in steps) == 44.0
    assert all(step.reward[0] == step.score[0] for step in steps)


def test_evaluation_is_training_with_its_lives_joined_and_rewards_raw():
    env = make()
    acts = actions(env.describe(), 900, 2)[:, 0]
    obs, rewards = episode(env.make(), acts, 0)
    end = int(column("is_over").argmax())
    assert len(rewards) == end + 1
    assert rewards == column("score")[: end + 1].tolist()
    # What the agent acts on, lives' starts included, is what it is trained on.
    trained_on = np.stack([breakout()[0][0], *(step.obs[0] for step in breakout()[1][:end])])
    np.testing.assert_array_equal(obs[:-1], trained_on)


def test_without_life_loss_training_is_evaluation_with_clipped_rewards():
    env = make(terminal_on_life_loss=False, fire_on_reset=False)
    acts = actions(env.describe(), 400, 1)
    _, steps = play(env.make_training(1), acts, [0])
    _, rewards = episode(env.make(), acts[:, 0], 0)
    assert [step.score[0] for step in steps][: len(rewards)] == rewards
    assert all(step.ended[0] == step.is_over[0] for step in steps)


def test_fire_is_pressed_at_a_start_only_where_it_is_asked_for():
    def ball_in_play(env):
        env = env.make()
        obs, _ = env.reset(seed=0)
        for _ in range(8):
            obs, *_ = env.step(0)
        return (obs[0] != obs[3]).any()

    assert ball_in_play(make())
    assert not ball_in_play(make(fire_on_reset=False))


def test_the_frame_is_the_emulators_own_shrunk_by_area():
    import cv2

    env = make("Pong", noop_max=0, fire_on_reset=False, frame_stack=2).make()
    obs, _ = env.reset(seed=0)
    screen = env.unwrapped.ale.getScreenGrayscale()
    np.testing.assert_array_equal(
        obs[1], cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA)
    )
    assert env.observation_space.shape == (2, 84, 84)


def test_consecutive_observations_share_three_frames():
    obs, _ = episode(make("Pong").make(), [2] * 20, 0)
    for before, after in itertools.pairwise(obs):
        np.testing.assert_array_equal(after[:3], before[1:])


def test_a_step_is_four_frames_and_long_games_are_truncated():
    env = make("Pong", max_episode_frames=200, noop_max=0, fire_on_reset=False)
    assert env.describe().max_episode_steps == 50
    _, steps = play(env.make_training(1), np.zeros((60, 1), np.int64), [0])
    (end,) = (t for t, step in enumerate(steps) if step.ended[0])
    assert end in (49, 50)
    assert steps[end].is_over[0] and not steps[end].terminated[0]


def test_the_full_action_space_has_18_actions():
    assert make("Pong").describe().num_actions == 6
    assert make("Pong", full_action_space=True).describe().num_actions == 18


def test_the_seed_decides_no_ops_and_sticky_actions_whatever_was_played_before():
    env = make("Pong", repeat_action_probability=0.25)
    acts = actions(env.describe(), 100, 1)[:, 0]
    used = env.make()
    episode(used, acts, 5)
    one, other, unlike = (episode(e, acts, s) for e, s in ((used, 3), (env.make(), 3), (used, 4)))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
    assert not np.array_equal(one[0], unlike[0])


def test_worker_processes_change_no_bit():
    workers = make(stepping="processes")
    acts = actions(workers.describe(), 900, 2)[:300]
    first, steps = breakout()
    assert_same_play((first, steps[:300]), play(workers.make_training(2), acts, [0, 1]))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(atari.load.__globals__["importlib"].sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match=r'needs ale_py, .* pip install "\.\[atari\]"'):
        make().describe()
