"""What can be drawn, and what cannot."""

import importlib.util

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from qbench.evaluate import render
from tests.toys import Counter
from tests.train.test_cell import compose_config


def write_config(run_dir, text):
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "config.yaml").write_text(text)


MINATAR = """
env:
  _target_: qbench.env.minatar.MinAtarEnv
  game: breakout
  sticky_action_prob: 0.1
  max_episode_steps: 50
  stepping: serial
"""


def test_an_env_without_pictures_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(render, "load_env", lambda *a, **k: type("E", (), {"make": Counter}))
    with pytest.raises(ValueError, match=r"Counter cannot be drawn, it renders to \[\]"):
        render.make_drawn(tmp_path, ())


def test_an_env_that_fails_to_draw_itself_is_one_sentence(tmp_path):
    pytest.importorskip("minatar", reason="the minatar extra is not installed")
    # It draws with a library that is hidden from it (`qbench.env.minatar`).
    write_config(tmp_path, MINATAR)
    with pytest.raises(ValueError, match="MinAtar/Breakout-v1 cannot be drawn: name 'sns'"):
        render.make_drawn(tmp_path, ())


def test_an_atari_game_is_drawn(tmp_path):
    pytest.importorskip("ale_py", reason="the atari extra is not installed")
    config = {"env": OmegaConf.to_container(compose_config("env=pong", "network=cnn").env)}
    write_config(tmp_path, yaml.safe_dump(config))
    env = render.make_drawn(tmp_path, ())
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)


def test_an_mp4_names_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(render, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs pip install imageio imageio-ffmpeg; a \.gif"):
        render.check_file(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="needs pip install pillow"):
        render.check_file(tmp_path / "x.gif")


@pytest.mark.skipif(not importlib.util.find_spec("imageio_ffmpeg"), reason="no imageio-ffmpeg")
def test_an_mp4_is_written(tmp_path):
    frames = [np.full((64, 64, 3), 50 * i, np.uint8) for i in range(5)]
    render.write(tmp_path / "x.mp4", frames, fps=30)
    assert (tmp_path / "x.mp4").stat().st_size > 500
