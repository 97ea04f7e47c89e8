"""Every YAML of conf/env builds an env that describes itself."""

import importlib.util
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

import qbench

CONF = Path(qbench.__file__).parents[1] / "conf"
NEEDS_ID = {"gym": "CartPole-v0", "atari": "ALE/Asterix-v5"}
MODULES = {  # by class, the optional modules it takes
    "AtariEnv": ("ale_py", "cv2"),
    "MinAtarEnv": ("minatar",),
    "RenderedEnv": ("cv2",),
}
MUJOCO = ("halfcheetah", "hopper", "walker2d")
SPECS = {  # obs_shape, number of actions or of a Box's entries, max_episode_steps
    "acrobot": ((6,), 3, 500),
    "atari": ((4, 84, 84), 9, 27_000),
    "beamrider": ((4, 84, 84), 9, 27_000),
    "bipedalwalker": ((24,), 4, 1600),
    "breakout": ((4, 84, 84), 4, 27_000),
    "cartpole": ((4,), 2, 500),
    "cartpole_pixels": ((4, 84, 84), 2, 500),
    "gym": ((4,), 2, 200),
    "halfcheetah": ((17,), 6, 1000),
    "hopper": ((11,), 3, 1000),
    "lunarlander": ((8,), 4, 1000),
    "lunarlander_continuous": ((8,), 2, 1000),
    "lunarlander_pixels": ((4, 84, 84), 4, 1000),
    "minatar_asterix": ((4, 10, 10), 5, 5000),
    "minatar_breakout": ((4, 10, 10), 3, 5000),
    "minatar_freeway": ((7, 10, 10), 3, 5000),
    "minatar_seaquest": ((10, 10, 10), 6, 5000),
    "minatar_space_invaders": ((6, 10, 10), 4, 5000),
    "mountaincar": ((2,), 3, 200),
    "mountaincar_continuous": ((2,), 1, 999),
    "pendulum": ((3,), 1, 200),
    "pong": ((4, 84, 84), 6, 27_000),
    "walker2d": ((17,), 6, 1000),
}


def test_every_yaml_is_known_here():
    assert sorted(path.stem for path in (CONF / "env").glob("*.yaml")) == sorted(SPECS)


@pytest.mark.filterwarnings("ignore:.*settotalmass")
@pytest.mark.parametrize("name", SPECS)
def test_describes_itself(name):
    GlobalHydra.instance().clear()
    overrides = [f"env.id={NEEDS_ID[name]}"] if name in NEEDS_ID else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(f"env/{name}", overrides).env
    for module in MODULES.get(cfg._target_.rpartition(".")[2], ("mujoco",) * (name in MUJOCO)):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the extra of {name} is not installed: {module} is missing")
    spec = instantiate(cfg, _convert_="all").describe()
    num_actions = spec.num_actions or len(spec.action_high)
    assert (spec.obs_shape, num_actions, spec.max_episode_steps) == SPECS[name]
    is_picture = len(spec.obs_shape) == 3
    assert (spec.obs_high is not None) == is_picture
