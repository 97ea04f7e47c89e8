"""`experiment=paper` and its two pieces compose to the paper's budgets, network and quantizer."""

import pytest

from qbench.train.check import check_cell
from qbench.train.errors import ConfigError


@pytest.mark.parametrize(
    ("env", "episodes", "longest"), [("cartpole", 200, 500), ("lunarlander", 700, 1000)]
)
@pytest.mark.parametrize("quant", ["none", "paper8"])
def test_the_budget_is_the_papers_and_never_ends_by_env_steps(
    composed, env, episodes, longest, quant
):
    cfg = composed("experiment=paper", f"env={env}", f"quant={quant}")
    check_cell(cfg)
    assert (cfg.num_seeds, cfg.total_episodes) == (10, episodes)
    assert cfg.total_env_steps >= episodes * longest
    assert cfg.algo.loop.learning_rate_left == 1  # it would else decay over steps never taken


def test_the_quantizer_is_table_1s(composed):
    cfg = composed("experiment=paper", "quant=paper8")
    assert cfg.quant._target_ == "qbench.quant.qat.QAT"
    assert (cfg.quant.weights.bits, cfg.quant.activations.bits) == (8, 8)
    assert cfg.quant.weights.granularity == "tensor"
    assert (cfg.quant.activations.grid, cfg.quant.activations.range) == ("affine", "min_max")


def test_a_memory_cell_is_one_seed_of_the_same_settings_in_a_folder_of_its_own(composed):
    for env in ("cartpole", "lunarlander"):
        whole = composed("experiment=paper", f"env={env}")
        single = composed("experiment=paper_memory", f"env={env}", "seed=3")
        check_cell(single)
        assert single.num_seeds == 1
        assert single.hydra.sweep.subdir.startswith("seed_3/")
        assert (single.algo, single.replay, single.network) == (
            whole.algo, whole.replay, whole.network
        )  # fmt: skip


def test_pixels_are_the_papers_input_and_network(composed):
    pytest.importorskip("cv2", reason="the atari extra is not installed")
    cfg = composed("experiment=paper_pixels", "quant=paper8")
    check_cell(cfg)
    assert (cfg.env.screen_size, cfg.env.frame_stack, cfg.env.invert) == (84, 4, False)
    assert (list(cfg.network.channels), cfg.network.hidden_size) == ([16, 32], 256)
    assert cfg.total_episodes == 200
    with pytest.raises(ConfigError, match=r"env\.invert=7 will not do: it must be true or false"):
        check_cell(composed("experiment=paper_pixels", "env.invert=7"))


def test_the_command_line_beats_an_experiments_settings_for_an_env(composed):
    cfg = composed("experiment=paper", "env=cartpole", "total_episodes=3", "logger=offline")
    assert (cfg.total_episodes, cfg.logger.mode) == (3, "offline")


def test_an_env_that_an_experiment_has_no_settings_for_keeps_its_own(composed):
    cfg = composed("experiment=paper", "env=acrobot")
    assert (cfg.total_episodes, cfg.total_env_steps) == (None, 100_000)
