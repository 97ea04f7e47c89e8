"""RenderedEnv: grey pictures of the env, stacked, and one sentence where there are none."""

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from qbench.env.pixels import GreyPicture, RenderedEnv
from qbench.types import EnvSpec
from tests.env.steps import actions, assert_same_play, episode, play
from tests.toys import Counter

pytest.importorskip("cv2", reason="the atari extra (OpenCV) is not installed")


class Painted(gymnasium.Env):
    """Renders 6x6 pictures whose left half is of one colour and whose right half is white."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Discrete(2)
    colour = (0, 0, 0)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def render(self):
        frame = np.full((6, 6, 3), 255, np.uint8)
        frame[:, :3] = self.colour
        return frame


def rendered(id="CartPole-v1", *, invert=False, stepping="serial"):
    return RenderedEnv(
        id=id, kwargs={}, screen_size=84, frame_stack=4, invert=invert, stepping=stepping
    )


def test_spec_of_the_seed_papers_input():
    assert rendered().describe() == EnvSpec(
        id="CartPole-v1",
        obs_shape=(4, 84, 84),
        obs_high=255,
        frame_stack=4,
        num_actions=2,
        max_episode_steps=500,
    )


@pytest.mark.parametrize(
    ("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)]
)
def test_grey_is_luma_of_bt_601(colour, grey):
    env = Painted()
    env.colour = colour
    picture, _ = GreyPicture(env, 2, invert=False).reset()
    assert picture.tolist() == [[grey, 255], [grey, 255]]


def test_an_inverted_picture_is_white_on_black():
    plain, inverted = (rendered(invert=invert).make() for invert in (False, True))
    obs, _ = plain.reset(seed=3)
    found, _ = inverted.reset(seed=3)
    assert np.array_equal(found, 255 - obs) and np.median(found) == 0
    assert rendered(invert=True).describe() == rendered().describe()


def test_shrinking_averages_areas():
    picture, _ = GreyPicture(Painted(), 1, invert=False).reset()
    assert picture.tolist() == [[128]]  # half black, half white: 127.5, rounded to even


def test_the_oldest_frame_comes_first_and_a_reset_repeats_its_own():
    spec = rendered().describe()
    obs, _ = episode(rendered().make(), actions(spec, 8, 1)[:, 0], 0)
    assert obs.dtype == np.uint8
    assert all((obs[0, i] == obs[0, 3]).all() for i in range(3))
    for before, after in itertools.pairwise(obs):
        np.testing.assert_array_equal(after[:3], before[1:])
    assert (obs[-1, 3] != obs[0, 3]).any()  # one step may be too small to see


@pytest.mark.parametrize("id", ["CartPole-v1", "LunarLander-v3"])
def test_the_seed_of_a_reset_decides_the_episode(id):
    acts = actions(rendered(id).describe(), 20, 1)[:, 0]
    one, other, unlike = (episode(rendered(id).make(), acts, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
    assert not np.array_equal(one[0], unlike[0])


def test_worker_processes_change_no_bit():
    workers = rendered(stepping="processes")
    acts = actions(workers.describe(), 40, 2)
    serial = play(rendered().make_training(2), acts, range(2))
    assert any(step.ended.any() for step in serial[1])
    assert_same_play(serial, play(workers.make_training(2), acts, range(2)))


def test_an_env_without_pictures_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="cannot be drawn: it renders to"):
        GreyPicture(Counter(), 84, invert=False)
    spec = gymnasium.envs.registration.EnvSpec("Counter-v0", entry_point=Counter)
    monkeypatch.setitem(gymnasium.registry, "Counter-v0", spec)
    with (
        pytest.warns(match="rgb_array"),
        pytest.raises(ValueError, match="Counter-v0 cannot be drawn"),
    ):
        rendered("Counter-v0").describe()
