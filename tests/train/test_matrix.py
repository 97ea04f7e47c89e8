"""Every env x network x quant x algo: it trains, converts and plays, or a sentence says why not."""

import gymnasium
import numpy as np
import pytest
import torch

from qbench import layers
from qbench.evaluate import greedy, play
from qbench.quant import agreement
from qbench.quant.dynamic import DynamicNetwork
from qbench.quant.integer import IntegerNetwork
from qbench.train import build, cells
from qbench.train.check import Incompatible, check_cell
from qbench.train.conf import conf_dir


def choices(group):
    """All files of a group that name a class of their own, or an Atari game."""
    files = sorted((conf_dir() / group).glob("*.yaml"))
    return [f.stem for f in files if "_target_" in f.read_text() or "- atari" in f.read_text()]


def schemes():
    """All files of conf/quant but aliases."""
    files = sorted((conf_dir() / "quant").glob("*.yaml"))
    return [f.stem for f in files if "_self_" in f.read_text() or "_target_" in f.read_text()]


IDS = {"gym": "env.id=Blackjack-v1", "atari": "env.id=ALE/Asterix-v5"}
EXTRAS = {"AtariEnv": "ale_py", "MinAtarEnv": "minatar", "RenderedEnv": "cv2"}
SHORT = {  # so that a game is over soon, by the key that each kind of env has
    "GymnasiumEnv": "+env.kwargs.max_episode_steps=12",
    "RenderedEnv": "+env.kwargs.max_episode_steps=12",
    "AtariEnv": "env.emulator.max_episode_frames=200",
    "MinAtarEnv": "env.max_episode_steps=12",
}
SMALL = (
    "replay.capacity=60",
    "algo.loop.batch_size=4",
    "algo.loop.learning_starts=8",
)


def _env(name):
    """Atari's games differ in their names alone: Pong stands for the others in `make test`."""
    is_slow = name in ("atari", "beamrider", "breakout")
    return pytest.param(name, marks=pytest.mark.slow) if is_slow else name


@pytest.mark.filterwarnings("ignore:.*settotalmass")
@pytest.mark.parametrize("algo", choices("algo"))
@pytest.mark.parametrize("env", [*map(_env, choices("env"))])
def test_every_combination_trains_converts_and_plays_or_says_why_not(composed, env, algo):
    own = [IDS[env]] if env in IDS else []
    kind = composed(f"env={env}", *own).env._target_.rpartition(".")[2]
    if kind in EXTRAS:
        pytest.importorskip(EXTRAS[kind], reason=f"{env} needs an extra that is not installed")
    stepping = ["env.stepping=serial"] if env == "cartpole" else []
    axes = [f"env={env}", f"algo={algo}", *own, *stepping, SHORT[kind], *SMALL]
    axes.append(f"num_seeds={2 if kind == 'GymnasiumEnv' else 1}")
    reasons, trained = set(), 0
    for network in choices("network"):
        try:
            check_cell(composed(*axes, f"network={network}"))
        except Incompatible as why:
            reasons.add(str(why))
            continue
        if network == "cnn_minatar" and kind != "MinAtarEnv":
            continue  # 13 million weights in one layer, and nothing that the others do not show
        for quant in choices("quant"):
            cfg = composed(*axes, f"network={network}", f"quant={quant}")
            check_cell(cfg)
            play_a_little(cfg)
            trained += 1
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons)
    assert trained > 0 or env == "gym" or all("action space" in reason for reason in reasons)


SCHEME_AXES = {
    "vectors": ["env=cartpole", "env.stepping=serial", SHORT["GymnasiumEnv"]],
    "actions": ["env=pendulum", "algo=ddpg", SHORT["GymnasiumEnv"]],
    "images": ["env=minatar_breakout", "network=cnn_minatar", SHORT["MinAtarEnv"]],
}
# Elsewhere than on vectors, bit widths show nothing that these do not.
KINDS = ("lsq4", "pact4", "binary", "paper8", "ptq8_dynamic", "fp16")


@pytest.mark.parametrize(
    ("kind", "quant"),
    [("vectors", quant) for quant in schemes()]
    + [(kind, quant) for kind in ("actions", "images") for quant in KINDS],
)
def test_every_scheme_trains_converts_and_plays(composed, kind, quant):
    if kind == "images":
        pytest.importorskip("minatar", reason="the minatar extra is not installed")
    axes = [*SCHEME_AXES[kind], *SMALL, "num_seeds=2", f"quant={quant}"]
    if kind == "actions" and "scope" in composed(*axes).quant:
        axes.append("quant.scope=all")
    cfg = composed(*axes)
    check_cell(cfg)
    play_a_little(cfg)


def play_a_little(cfg):
    """A few env steps, two updates, conversion, one episode."""
    needs_base = cells.needs_base(cfg)
    scheme = build.create(cfg.quant)
    if needs_base:
        with cells.writable(cfg):
            cfg.quant = {"_target_": "qbench.quant.none.NoQuant"}
    parts = build.build(cfg)
    parts.collector.collect(20)
    assert parts.replay.size == 20
    batches = parts.sampler.sample(2)
    for batch in batches:
        metrics = parts.learner.update(batch)
        assert metrics["loss"].isfinite().all()
    parts.learner.sync_target(0.5)
    parts.collector.collect(2)
    parts.collector.close()
    network = parts.learner.network
    if needs_base:
        network = scheme.prepare(network)
        scheme.calibrate(network, [batch.obs for batch in batches])
    network.eval()
    singles = [layers.take_seed(network, k) for k in range(len(parts.seeds))]
    policies = [scheme.convert(single) for single in singles]
    for k, (single, policy) in enumerate(zip(singles, policies, strict=True)):
        obs = parts.replay.observations(k, np.arange(20))
        assert_agree(single, policy, obs)
    played = play(
        greedy(policies, parts.spec), parts.env.make, num_seeds=len(policies), num_episodes=1
    )
    assert np.isfinite(played.returns).all() and (played.lengths > 0).all()


@torch.no_grad()
def assert_agree(single, policy, obs):
    if isinstance(policy, IntegerNetwork):
        found = agreement.measure(single, policy, obs)
        assert found.max_tie_distance <= 1e-3 and found.max_rounding_error <= 1e-5
    elif isinstance(policy, DynamicNetwork):
        # A rounding of floats may put a value on the other side of a tie, one code of 255.
        expected = single(torch.from_numpy(obs)[None])[0].numpy()
        np.testing.assert_allclose(policy(obs), expected, rtol=0.02, atol=0.02)
    else:
        expected = single(torch.from_numpy(obs)).numpy()
        np.testing.assert_allclose(policy(obs), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("env", ["pendulum", "cartpole", "pong"])
def test_the_other_algorithm_is_named(composed, env):
    if env == "pong":
        pytest.importorskip("ale_py", reason="the atari extra is not installed")
    wrong, right = ("dqn", "ddpg") if env == "pendulum" else ("ddpg", "dqn")
    with pytest.raises(Incompatible, match=f"Try algo={right}"):
        check_cell(composed(f"env={env}", f"algo={wrong}", *(["network=cnn"] * (env == "pong"))))


def test_actions_without_bounds_are_refused(composed):
    class Unbounded(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    gymnasium.register("Unbounded-v0", entry_point=Unbounded)
    with pytest.raises(Incompatible, match=r"finite bounds; Unbounded-v0 has Box\(1,\) from -inf"):
        check_cell(composed("env=gym", "env.id=Unbounded-v0", "algo=ddpg"))


def test_frames_smaller_than_the_kernel_are_refused(composed):
    pytest.importorskip("minatar", reason="the minatar extra is not installed")
    with pytest.raises(Incompatible, match=r"a kernel of 4 meets 1 pixels. Try network=cnn_min"):
        check_cell(composed("env=minatar_breakout", "network=cnn_paper"))
    with pytest.raises(Incompatible, match=r"Box\(4, 10, 10\). Try network=cnn_minatar."):
        check_cell(composed("env=minatar_breakout", "network=mlp"))
