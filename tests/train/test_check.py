"""Every refusal names the key and the remedy."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces as gym_spaces

from qbench.train import check, spaces
from qbench.train.check import ConfigError, Incompatible, check_cell


def refusal(cfg):
    with pytest.raises(ConfigError) as error:
        check_cell(cfg)
    return str(error.value)


@pytest.mark.parametrize(
    "choices",
    [
        [],
        ["env=lunarlander", "quant=ptq"],
        ["env=gym", "env.id=CartPole-v0", "quant=qat4"],
        ["quant=qat8", "quant.weights.bits=2", "quant.weights.output_bits=8"],
        ["quant=ptq8", "trainer.precision=bfloat16"],
        ["quant=lsq4", "quant.schedule.delay_env_steps=20000", "quant.target_network=float"],
        ["quant=binary", "quant.schedule.freeze_env_steps=50000", "quant.activations.range=mse"],
        ["quant=qat8", "quant.acting=integer", "quant.acting_refresh_updates=16"],
        ["replay.dtype=uint8", "algo.loop.target_dtype=int8", "algo.loop.tau=1"],
        ["total_episodes=200", "n_jobs=1", "algo.learner.max_grad_norm=null"],
    ],
)
def test_what_can_be_trained_passes(composed, choices):
    check_cell(composed(*choices))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("num_seeds=0", "num_seeds=0 will not do: it must be a whole number of at least 1."),
        ("num_seeds=abc", "num_seeds=abc will not do: it must be a whole number of at least 1."),
        ("num_seeds=true", "num_seeds=true will not do: it must be a whole number of at least 1."),
        ("algo.learner.learning_rate=inf", "it must be a number above 0."),
        ("total_env_steps=-1", "total_env_steps=-1 will not do"),
        ("total_env_steps=1e4", "it must be a whole number of at least 1, such as 10000."),
        ("total_env_steps=1e300", "it must be a whole number of at least 1."),
        ("algo.learner.gamma=2.0", "it must be a number from 0 up to 1."),
        ("total_episodes=0", "it must be a whole number of at least 1 or null."),
        ("log_interval_env_steps=0", "log_interval_env_steps=0 will not do"),
        ("eval_episodes=0", "eval_episodes=0 will not do"),
        ("algo.loop.exploration.end=1.5", "it must be a number from 0 up to 1."),
        ("algo.learner.gamma=-0.1", "algo.learner.gamma=-0.1 will not do"),
        ("algo.loop.tau=0", "it must be a number above 0 up to 1."),
        ("algo.learner.loss=l1", "it must be huber or squared."),
        ("quant=qat8 quant.weights.bits=9", "it must be a whole number from 1 up to 8."),
        ("quant=qat8 quant.weights.bits=null", "quant.weights.bits=null will not do"),
        ("quant=ptq8 quant.weights.output_bits=0", "quant.weights.output_bits=0 will not do"),
        ("quant=ptq8 quant.activations.input_bits=null", "quant.activations.input_bits=null will"),
        ("quant=qat8 quant.weights.bits=1", "add quant.weights.range=mean."),
        ("quant=qat8 quant.weights.range=mean", "not for quant.weights.bits=8: use max, mse or"),
        ("quant=ptq8 quant.activations.range=clipped", "post-training schemes have none"),
        ("quant=ptq4 quant.weights.range=learned", "post-training schemes have none"),
        ("quant=lsq4 quant.activations.grid=affine", "needs quant.activations.grid=zero_point."),
        ("quant=pact4 quant.schedule.freeze_env_steps=5000", "is moved by the optimizer"),
        ("quant=qat8 quant.schedule.delay_env_steps=100000", "is not below total_env_steps=100000"),
        ("quant=qat8 quant.schedule.freeze_env_steps=1000", "so no range would have seen anything"),
        ("quant=qat8 quant.activations.percentile=50", "it must be a number above 50 up to 100."),
        ("quant=qat8 quant.target_network=none", "it must be quantized or float."),
        ("quant=fp16 quant.number_format=float8", "it must be float16 or bfloat16."),
        ("quant=qat4 quant.activations.input_bits=2.5", "quant.activations.input_bits=2.5"),
        ("quant=qat8 quant.activations.range=max", "it must be min_max or moving_average or per"),
        ("quant=qat8 quant.acting=int8", "it must be fake or integer or float."),
        ("quant=qat8 quant.acting_refresh_updates=0", "quant.acting_refresh_updates=0 will not do"),
        (
            "quant=qat8 quant.acting=integer quant.schedule.delay_env_steps=5000",
            "there are none before quant.schedule.delay_env_steps=5000: use quant.acting=float",
        ),
        (
            "quant=qat8 quant.target_network=float algo.loop.target_dtype=int8 algo.loop.tau=1",
            "quant.target_network=float wants floats: leave out the one or the other.",
        ),
        ("quant=qat8 quant.saved=bytes", "it must be codes or floats."),
        ("+quant.acting=integer", "quant.acting is not a key that anything reads"),
        ("replay.dtype=int8", "replay.dtype=int8 will not do: it must be float32 or uint8."),
        ("algo.loop.target_dtype=uint8", "it must be float32 or int8."),
        ("algo.loop.target_dtype=int8", "cannot follow softly, with algo.loop.tau=0.04:"),
        (
            "algo.loop.target_dtype=int8 algo.loop.tau=1 algo.learner.target_network=false",
            "algo.learner.target_network=false has none: leave out the one or the other.",
        ),
        ("algo.learner.moments_dtype=int8", "it must be float32 or uint8."),
        ("quant=qat8 quant.activations.grid=x", "it must be zero_point or affine."),
        ("quant=qat8 quant.weights.granularity=row", "it must be channel or tensor."),
        ("replay.capacity=10", "replay.capacity=10 is smaller than algo.loop.batch_size=128"),
        ("algo.loop.learning_starts=100001", "is beyond total_env_steps=100000"),
        ("network.hidden_sizes=[8,0]", "network.hidden_sizes=[8, 0] will not do"),
        ("trainer.precision=bf16", "it must be float32 or bfloat16."),
        ("quant=qat8 trainer.precision=bfloat16", "trainer.precision=bfloat16 rounds what"),
        ("sweep=../elsewhere", "sweep=../elsewhere will not do"),
        ("sweep=reference", "published results are in multirun/reference"),
        ("sweep=.hidden", "names with a leading dot are passed over"),
        ("~replay", "replay was removed but is needed: leave out ~replay."),
        ("formats=[onnx,pickle]", "formats=['onnx', 'pickle'] will not do: it must be a list"),
        ("+typo=1", "typo is not a key that anything reads"),
        ("+algo.loop.typo=1", "algo.loop.typo is not a key that anything reads"),
        ("~algo.loop.tau", "algo.loop.tau was removed but is needed: leave out ~algo.loop.tau."),
        ("algo.loop.learning_rate_left=2", "it must be a number from 0 up to 1."),
        ("env=gym", "env=gym needs env.id="),
        ("env=atari", "env=atari needs env.id="),
        ("env=gym env.id=Catpole-v1", "env.id=Catpole-v1 is not registered: the nearest ids are"),
        ("env=gym env.id=ALE/Pong-v5", "use env=atari with the same env.id."),
        ("env=gym env.id=MinAtar/Breakout-v1", "use env=minatar_breakout or a sibling."),
        ("env.id=Acrobot-v1", "use env=gym env.id=Acrobot-v1."),
        ("env=lunarlander +env.kwargs.wid=1", "env.kwargs does not suit LunarLander-v3"),
        ("+env.kwargs.wind=1", "env.stepping=vector is written for CartPole-v1 without kwargs"),
        ("env.stepping=fast", "it must be serial or processes or vector."),
    ],
)
def test_a_wrong_value_is_one_sentence(composed, overrides, sentence):
    said = refusal(composed(*overrides.split()))
    assert sentence in said
    assert "\n" not in said


class Foreign(gymnasium.Env):
    """An env of somebody else, of which only the spaces are looked at."""

    def __init__(self, obs, action):
        self.observation_space, self.action_space = obs, action


@pytest.fixture
def foreign(monkeypatch):
    """Registered envs that do not suit."""
    vector, image = gym_spaces.Box(-1.0, 1.0, (4,)), gym_spaces.Box(0, 255, (96, 96, 3), np.uint8)
    made = {
        "CountsFromOne-v0": (vector, gym_spaces.Discrete(2, start=1)),
        "Photographs-v0": (image, gym_spaces.Discrete(2)),
        "Bytes-v0": (gym_spaces.Box(0, 255, (4,), np.uint8), gym_spaces.Box(-1.0, 1.0, (2,))),
    }
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    for env_id, (obs, action) in made.items():
        gymnasium.register(env_id, lambda obs=obs, action=action: Foreign(obs, action))


def test_ddpg_takes_no_bytes(composed, foreign):
    with pytest.raises(Incompatible, match="DDPG takes float32 vectors of observations; Bytes-v0"):
        check_cell(composed("env=gym", "env.id=Bytes-v0", "algo=ddpg"))


@pytest.mark.parametrize(
    ("env_id", "sentence"),
    [
        ("Pendulum-v1", "DQN needs a Discrete action space; Pendulum-v1 has Box(1,)."),
        ("Taxi-v4", "network=mlp takes a one-dimensional Box of observations; Taxi-v4 has"),
        ("CountsFromOne-v0", "CountsFromOne-v0 counts its actions from 1, not from 0"),
        ("Photographs-v0", "env=gym takes vectors of observations; Photographs-v0 has images"),
    ],
)
def test_spaces_that_do_not_suit_are_incompatible_not_wrong(composed, env_id, sentence, foreign):
    with pytest.raises(Incompatible, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        check_cell(composed("env=gym", f"env.id={env_id}"))


def test_a_budget_below_an_unsuited_algorithms_start_is_incompatible_not_wrong(composed):
    with pytest.raises(Incompatible, match="DDPG needs"):
        check_cell(composed("env=cartpole", "algo=ddpg", "total_env_steps=3000"))


def test_a_module_is_only_imported_when_the_command_line_says_so(composed):
    cfg = composed("env=gym", "env.id=nowhere:Env-v0")
    assert "needs a module that cannot be imported" in refusal(cfg)
    cfg.hydra.overrides.task = ["env=gym"]
    assert "only allowed on the command line" in refusal(cfg)


def test_images_are_bytes_in_replay_anyway(composed):
    pytest.importorskip("minatar", reason="the minatar extra is not installed")
    with pytest.raises(Incompatible, match="are stored as bytes anyway: leave it out"):
        check_cell(composed("env=minatar_breakout", "network=cnn_minatar", "replay.dtype=uint8"))


def test_coded_moments_need_their_library(composed, monkeypatch):
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    said = refusal(composed("algo.learner.moments_dtype=uint8"))
    assert 'which is not installed: pip install ".[adam8bit]".' in said


def test_coded_moments_are_not_recorded(composed, monkeypatch):
    monkeypatch.setattr(check, "find_spec", lambda name: name)
    said = refusal(composed("algo.learner.moments_dtype=uint8", "trainer=gpu"))
    assert said.endswith("which no CUDA graph runs: add trainer.cuda_graphs=false.")


def test_a_replay_that_does_not_fit_names_the_number_of_seeds_that_does(composed, monkeypatch):
    # CartPole: 4 * (2 * 4 + 3) = 44 bytes a row, 4.4 MB a seed, 3 seeds in 14 MB.
    monkeypatch.setattr(spaces, "available_bytes", lambda: 14_000_000)
    assert "num_seeds=3 is the most that fits" in refusal(composed("num_seeds=5"))
    check_cell(composed("num_seeds=3"))
    monkeypatch.setattr(spaces, "available_bytes", lambda: 440_000)
    assert "replay.capacity=10000 is the most that fits one seed" in refusal(composed())
    # In bytes 2 * 4 + 12 = 20 a row.
    fitting = "replay.capacity=22000 is the most that fits one seed"
    assert fitting in refusal(composed("replay.dtype=uint8"))


def test_foreign_classes_are_left_alone(composed):
    cfg = composed("quant=qat8", "quant._target_=toy.Scheme", "quant.activations.range=log")
    check_cell(cfg)
    assert "toy" not in sys.modules
