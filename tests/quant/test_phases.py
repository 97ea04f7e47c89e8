"""Delay, freeze and float targets: what a scheme's networks are at an env step."""

import math

import torch

from qbench.quant.layer import QuantLayer
from qbench.train.phases import Phases
from tests.algo.test_dqn import random_batch
from tests.quant.test_qat import learner_of, observations, observed, ranges, same, scheme
from tests.toys import q_population


def delayed(**schedule):
    return scheme(2, schedule={"delay_env_steps": 100, "freeze_env_steps": None} | schedule)


def test_until_the_delay_is_over_layers_compute_in_float_and_observe():
    quant, plain = delayed(), q_population([0])
    module = quant.prepare(q_population([0])).train()
    quant.advance(module, 99, is_target=False)
    obs = observations(1, 50)
    assert torch.equal(module(obs), plain(obs))
    assert all(both.isfinite().all() for both in ranges(module))
    quant.advance(module, 100, is_target=False)
    assert not torch.equal(module(obs), plain(obs))


def test_until_the_delay_is_over_a_training_has_the_bits_of_float(one_thread):
    quant = delayed()
    module = quant.prepare(q_population([0, 1], hidden_sizes=(120, 84)))
    quant.advance(module, 0, is_target=False)
    learners = [learner_of(module), learner_of(q_population([0, 1], hidden_sizes=(120, 84)))]
    for i in range(20):
        batch = random_batch(2, 128, first_seed=i)
        columns = torch.cat([batch.obs, batch.next_obs], dim=-1)  # as rows of the replay hold them
        obs, next_obs = columns.split(batch.obs.shape[-1], dim=-1)
        for learner in learners:
            learner.update(batch._replace(obs=obs, next_obs=next_obs))
    assert torch.equal(learners[0].optimizer.flat, learners[1].optimizer.flat)


def test_frozen_ranges_stand_still_and_still_quantize():
    quant = scheme(8, schedule={"delay_env_steps": 0, "freeze_env_steps": 10})
    module = observed(quant).train()
    quant.advance(module, 10, is_target=False)
    before = ranges(module)
    module(100 * observations(2, 20))
    assert same(before, ranges(module))
    quant.advance(module, 9, is_target=False)
    module(100 * observations(2, 20))
    assert not same(before, ranges(module))


def test_a_float_target_computes_in_float_and_the_online_network_does_not():
    quant = scheme(2, target_network="float")
    learner = learner_of(quant.prepare(q_population([0])))
    learner.update(random_batch(1))
    Phases(quant, learner)(0)
    learner.sync_target(1.0)
    learner.network.eval()
    obs, plain = observations(1, 20), q_population([0])
    plain.load_state_dict(learner.network.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(learner.target.network(obs), plain(obs))
        assert not torch.equal(learner.network(obs), plain(obs))


def test_phases_change_at_the_steps_of_the_schedule_and_at_no_other():
    quant = delayed(freeze_env_steps=200)
    learner = learner_of(quant.prepare(q_population([0])))
    phases, calls = Phases(quant, learner), []
    quant.advance = lambda module, env_step, *, is_target: calls.append((env_step, is_target))
    for env_step in range(0, 400, 8):
        phases(env_step)
    assert calls == [(0, False), (0, True), (104, False), (104, True), (200, False), (200, True)]
    assert quant.next_change(200) == math.inf


def test_learned_steps_start_when_the_delay_ends():
    quant = scheme(
        4,
        range="learned",
        weight_range="learned",
        schedule={"delay_env_steps": 100, "freeze_env_steps": None},
    )
    module = quant.prepare(q_population([0])).train()
    quant.advance(module, 0, is_target=False)
    module(observations(1, 50)), module(5 * observations(1, 50))
    hidden = [m for m in module.modules() if isinstance(m, QuantLayer)][1]
    with torch.no_grad():
        before = module.torso.layers[0](5 * observations(1, 50)).relu().abs().mean()
    torch.testing.assert_close(hidden.input_step.exp().flatten()[0], 2 * before / 15**0.5)


def test_a_scheme_without_phases_is_left_alone():
    learner = learner_of(q_population([0]))
    Phases(object(), learner)(0)
    assert learner.network.training
