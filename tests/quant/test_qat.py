"""Prepared networks: keys, ranges, levels, and agreement with the integers they become."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from qbench import layers
from qbench.algo.ddpg import DDPG
from qbench.algo.dqn import DQN
from qbench.deploy import npz
from qbench.network.heads import Actor, Critic
from qbench.quant import agreement, grids
from qbench.quant.integer import IntegerLayer, IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.quant.none import NoQuant
from qbench.quant.ptq import PTQ
from qbench.quant.qat import QAT
from qbench.quant.trace import ConversionError
from tests.algo.test_ddpg import BOX
from tests.algo.test_ddpg import random_batch as ddpg_batch
from tests.algo.test_dqn import random_batch
from tests.toys import mlp, q_population


def scheme(bits=8, cls=QAT, **changes):
    weights = {"bits": bits, "input_bits": None, "output_bits": None, "granularity": "channel"}
    weights["range"] = "mean" if bits == 1 else "max"
    activations = {"bits": bits, "input_bits": 8, "range": "moving_average", "grid": "zero_point"}
    activations["percentile"] = 99.9
    settings = {"schedule": {"delay_env_steps": 0, "freeze_env_steps": None}, "scope": "actor"}
    settings |= {"target_network": "quantized", "saved": "codes"}
    settings |= {"acting": "fake", "acting_refresh_updates": 1}
    for key, value in changes.items():
        group, _, name = key.partition("_") if key.startswith("weight_") else ("", "", key)
        if group:
            weights[name] = value
        elif key in settings:
            settings[key] = value
        else:
            (weights if key in ("output_bits", "granularity") else activations)[key] = value
    more = settings if cls is QAT else {}
    return cls(weights=weights, activations=activations, **more)


def observed(scheme, num_seeds=2, num_batches=30, hidden_sizes=(120, 84)):
    """A prepared population whose ranges have seen observations of unequal scales."""
    module = scheme.prepare(q_population(list(range(num_seeds)), hidden_sizes=hidden_sizes))
    obs = observations(num_seeds, num_batches * 64)
    module.train()
    for i in range(num_batches):
        module(obs[:, i * 64 : (i + 1) * 64])
    return module.eval()


def observations(num_seeds, count):
    torch.manual_seed(3)
    return torch.randn(num_seeds, count, 4) * torch.tensor([1.0, 2.0, 0.1, 3.0])


def ranges(module):
    return [b.clone() for b in module.buffers()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_prepared_keys_are_float_keys_plus_ranges():
    plain, prepared = q_population([0]), scheme().prepare(q_population([0]))
    added = set(prepared.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(prepared.state_dict())
    assert {name.rsplit(".", 1)[1] for name in added} == {"input_range"}
    assert len(added) == 3


def test_a_float_checkpoint_loads_into_a_prepared_network():
    plain, prepared = q_population([1]), scheme().prepare(q_population([0]))
    missing, unexpected = prepared.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("input_" in name for name in missing)
    assert same(plain.parameters(), prepared.parameters())


def test_prepared_layers_hold_the_same_parameters():
    network = q_population([0])
    prepared = scheme().prepare(network)
    assert [id(p) for p in prepared.parameters()] == [id(p) for p in network.parameters()]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_every_tensor_is_quantized_and_holds_at_most_two_to_the_bits_levels(bits, granularity):
    module = observed(scheme(bits, granularity=granularity))
    found = [m for m in module.modules() if isinstance(m, QuantLayer)]
    assert len(found) == 3 and not [m for m in module.modules() if type(m) is layers.Linear]
    inputs = {}
    for i, layer in enumerate(found):
        layer.register_forward_pre_hook(lambda m, x, i=i: inputs.setdefault(i, x[0]))
    module(observations(2, 500))
    for i, layer in enumerate(found):
        grid, codes = layer.codes()
        assert codes.weight.unique().numel() <= 2**bits
        assert codes.weight.abs().max() == max(2 ** (bits - 1) - 1, 1)
        levels = grids.encode(inputs[i], grid).unique()
        input_bits = 8 if i == 0 else bits
        assert levels.min() >= 0 and levels.max() <= 2**input_bits - 1
        assert torch.equal(codes.bias, codes.bias.round())


def test_the_output_layer_may_have_bits_of_its_own():
    module = scheme(4, output_bits=8).prepare(q_population([0]))
    found = [m.spec for m in module.modules() if isinstance(m, QuantLayer)]
    assert [s.weight_bits for s in found] == [4, 4, 8]
    assert [s.input_bits for s in found] == [8, 4, 4]


def test_the_first_minibatch_sets_the_range_and_the_average_follows():
    layer = scheme().prepare(q_population([0])).torso.layers[2]
    layer.train()
    low, high = torch.zeros(16), torch.ones(16)
    layer(torch.stack([low, high]).unsqueeze(0))
    assert layer.input_range.flatten().tolist() == [0.0, 1.0]
    layer(torch.stack([low - 1, high + 2]).unsqueeze(0))
    assert layer.input_range.flatten().tolist() == pytest.approx([-0.01, 1.02])


@pytest.mark.parametrize(
    ("range_", "expected"), [("percentile", [0.1, 99.9]), ("mse", [0.0, 100.0])]
)
def test_other_ranges_follow_in_the_same_way(range_, expected):
    layer = scheme(range=range_).prepare(q_population([0], hidden_sizes=(101, 16))).torso.layers[2]
    layer.train()
    layer(torch.arange(101.0).view(1, 1, 101))
    assert layer.input_range.flatten().tolist() == pytest.approx(expected, abs=1e-4)
    layer(2 * torch.arange(101.0).view(1, 1, 101))
    assert layer.input_range.flatten().tolist() == pytest.approx(
        [1.01 * end for end in expected], abs=1e-3
    )


def test_first_and_last_layers_may_have_weight_bits_of_their_own():
    quant = scheme(1, output_bits=8)
    quant.weights = dataclasses.replace(quant.weights, input_bits=4)
    found = [
        m.spec for m in quant.prepare(q_population([0])).modules() if isinstance(m, QuantLayer)
    ]
    assert [(s.weight_bits, s.weight_range) for s in found] == [(4, "max"), (1, "mean"), (8, "max")]


def test_the_observation_has_one_min_max_range_per_feature():
    module = scheme().prepare(q_population([0])).train()
    obs = observations(1, 100)
    module(obs[:, :50]), module(obs[:, 50:])
    first = module.torso.layers[0]
    assert torch.equal(first.input_range, torch.stack((obs.amin(1), obs.amax(1)), 1))


def test_only_train_mode_with_gradients_moves_a_range():
    module = observed(scheme())
    before = ranges(module)
    wild = 100 * observations(2, 10)
    module.eval()(wild)
    with torch.no_grad():
        module.train()(wild)
        module.eval()(wild)
    assert same(before, ranges(module))
    module.train()(wild)
    assert not same(before, ranges(module))


def learner_of(module, **changes):
    settings = {"learning_rate": 1e-3, "gamma": 0.9, "double": True, "target_network": True}
    return DQN(network=module, loss="huber", max_grad_norm=10.0, **(settings | changes))


def test_acting_targets_and_double_dqn_move_no_range():
    learner = learner_of(observed(scheme()))
    learner.update(random_batch(2))  # The first one hands the ranges to the target.
    batch = random_batch(2)._replace(next_obs=1000 * random_batch(2).next_obs)
    highest = max(both.max() for both in ranges(learner.network))
    before = ranges(learner.target.network)
    learner.act(batch.next_obs)
    learner.update(batch)
    after = max(both.max() for both in ranges(learner.network))
    assert after < 2 * highest
    assert same(before, ranges(learner.target.network))


def test_the_first_update_hands_the_ranges_to_the_targets():
    dqn = learner_of(scheme().prepare(q_population([0])))
    dqn.update(random_batch(1))
    actor = scheme().prepare(layers.populate(lambda: Actor(make_torso=mlp([8]), spec=BOX), [0]))
    critic = scheme().prepare(layers.populate(lambda: Critic(make_torso=mlp([8]), spec=BOX), [0]))
    ddpg = DDPG(
        actor=actor,
        critic=critic,
        learning_rate=1e-3,
        gamma=0.9,
        policy_frequency=2,
        max_grad_norm=None,
    )
    batch = ddpg_batch(1, 0)
    ddpg.update(batch)
    for target in (*dqn.targets().values(), *ddpg.targets().values()):
        assert ranges(target) and all(both.isfinite().all() for both in ranges(target))
    # The actor's loss looks at actions that the replay never held.
    before = ranges(critic)
    ddpg._actor_loss(batch._replace(obs=100 * batch.obs))
    assert same(before, ranges(critic))


def test_target_sync_copies_ranges_whole_even_when_soft():
    learner = learner_of(observed(scheme()))
    for i in range(5):
        learner.update(random_batch(2, first_seed=i)._replace(obs=5 * random_batch(2).obs))
    assert not same(learner.network.buffers(), learner.target.network.buffers())
    learner.sync_target(0.01)
    assert same(learner.network.buffers(), learner.target.network.buffers())


def test_cached_codes_follow_updates_and_syncs():
    learner = learner_of(observed(scheme()))
    obs = observations(2, 20)
    learner.act(obs), learner.target.network(obs)
    for i in range(5):
        learner.update(random_batch(2, first_seed=i))
    learner.sync_target(1.0)
    learner.act(obs)
    fresh = copy.deepcopy(learner.network).train()
    with torch.no_grad():
        expected = fresh(obs)
        assert torch.equal(learner.network(obs), expected)
        assert torch.equal(learner.target.network(obs), expected)


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
def test_what_backward_keeps_changes_no_bit(grid, one_thread):
    learners = [
        learner_of(scheme(4, saved=saved, grid=grid).prepare(q_population([0, 1])))
        for saved in ("codes", "floats")
    ]
    for i in range(20):
        for learner in learners:
            learner.update(random_batch(2, first_seed=i))
    assert torch.equal(learners[0].optimizer.flat, learners[1].optimizer.flat)


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_a_quantized_seed_is_bit_identical_in_any_population(num_seeds, one_thread):
    alone = learner_of(scheme(4).prepare(q_population([3])))
    crowd = learner_of(scheme(4).prepare(q_population(list(range(3, 3 + num_seeds)))))
    for i in range(100):
        alone.update(random_batch(1, 32, first_seed=i))
        crowd.update(random_batch(num_seeds, 32, first_seed=i))
        alone.sync_target(0.1), crowd.sync_target(0.1)
    assert torch.equal(alone.optimizer.flat[0], crowd.optimizer.flat[0])
    assert all(
        torch.equal(a[0], b[0])
        for a, b in zip(alone.network.buffers(), crowd.network.buffers(), strict=True)
    )


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("bits", [8, 5, 4, 2, 1])
def test_integers_agree_with_fake_quantization_on_10000_observations(bits, granularity, grid):
    quant = scheme(bits, granularity=granularity, grid=grid)
    module = observed(quant)
    obs = observations(2, 10_000)
    for k in range(2):
        single = layers.take_seed(module, k)
        network = quant.convert(single)
        found = agreement.measure(single, network, obs[k].numpy())
        assert found.holds, found
        assert found.rows == 10_000


def test_agreement_notices_a_wrong_integer():
    quant = scheme(4)
    single = layers.take_seed(observed(quant), 0)
    network = quant.convert(single)
    network.layers[1].weight[3, :40] += 3
    assert not agreement.measure(single, network, observations(1, 1000)[0].numpy()).holds


def test_float64_sums_equal_int64_sums():
    quant = scheme(8)
    network = quant.convert(layers.take_seed(observed(quant), 1))
    codes = network.trace(observations(2, 300)[1].numpy())
    for i, layer in enumerate(network.layers):
        x, w = codes[i].astype(np.int64), layer.weight.astype(np.int64)
        expected = x @ w.T + layer.bias.astype(np.int64)
        assert np.array_equal(layer.accumulate(codes[i]), expected)
        assert np.abs(expected).max() < 2**31


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_converted_weights_are_int8_and_survive_the_archive(tmp_path, bits):
    quant = scheme(bits)
    network = quant.convert(layers.take_seed(observed(quant), 0))
    obs = observations(1, 50)[0].numpy()
    sizes = npz.save(tmp_path / "policy.npz", network)
    loaded = npz.load(tmp_path / "policy.npz")
    assert isinstance(loaded, IntegerNetwork)
    assert np.array_equal(loaded(obs), network(obs))
    assert all(layer.weight.dtype == np.int8 for layer in loaded.layers)
    assert all(layer.bias.dtype == np.int32 for layer in loaded.layers)
    num_weights = 4 * 120 + 120 * 84 + 84 * 2
    assert sizes.weights == (num_weights // 2 if bits <= 4 else num_weights)
    assert sizes.total == (tmp_path / "policy.npz").stat().st_size


def test_ptq_calibrates_on_batches_and_changes_no_weight():
    quant = scheme(8, cls=PTQ, range="min_max")
    network = q_population([0, 1])
    weights = [p.detach().clone() for p in network.parameters()]
    prepared = quant.prepare(network)
    obs = observations(2, 400)
    quant.calibrate(prepared, obs.split(100, dim=1))
    first = prepared.torso.layers[0]
    assert torch.equal(first.input_range[:, 1], obs.amax(1))
    hidden = torch.relu(layers.swap_layers(network, lambda m: m).torso.layers[0](obs))
    expected = hidden.amax((1, 2)).detach()
    highest = prepared.torso.layers[2].input_range[:, 1].flatten()
    torch.testing.assert_close(highest, expected, rtol=0.02, atol=0)
    assert same(weights, prepared.parameters())


def test_eight_bits_cost_a_trained_scale_little():
    network = q_population([0, 1], hidden_sizes=(64, 64))
    quant = scheme(8, cls=PTQ, range="min_max")
    obs = observations(2, 1000)
    with torch.no_grad():
        expected = network(obs)
    prepared = quant.prepare(network)
    quant.calibrate(prepared, [obs])
    with torch.no_grad():
        error = (prepared(obs) - expected).abs().max()
    assert error < 0.03 * (expected.max() - expected.min())


def test_none_converts_to_the_same_float_network():
    network = q_population([0, 1])
    obs = observations(2, 50)
    converted = NoQuant().convert(layers.take_seed(network, 1))
    with torch.no_grad():
        expected = network(obs)[1].numpy()
    np.testing.assert_allclose(converted(obs[1].numpy()), expected, rtol=1e-4, atol=1e-5)


class Gelu(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(3, 2)

    def forward(self, x):
        return self.two(nn.functional.gelu(self.one(x)))


def test_an_operation_without_integer_form_is_named():
    prepared = scheme().prepare(layers.populate(Gelu, [0]))
    with pytest.raises(ConversionError, match="cannot take the operation gelu"):
        scheme().convert(layers.take_seed(prepared, 0))


def test_a_layer_left_in_float_is_an_error():
    network = layers.take_seed(q_population([0]), 0)
    with pytest.raises(ConversionError, match="left in float"):
        scheme().convert(network)


def test_a_diverged_seed_can_still_be_converted_and_its_ranges_stay_finite():
    quant = scheme(8)
    learner = learner_of(quant.prepare(q_population([0, 1])), learning_rate=1e25)
    for i in range(5):
        learner.update(random_batch(2, first_seed=i))
    assert not learner.alive.any()
    learner.network.eval()
    for tensor in learner.network.buffers():
        assert tensor.isfinite().all()
    network = quant.convert(layers.take_seed(learner.network, 0))
    assert network(observations(1, 5)[0].numpy()).shape == (5, 2)


class Bare(nn.Module):
    """Two layers without a ReLU between them, registered in the reverse of their order."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(6, 3)
        self.first = nn.Linear(4, 6)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
@pytest.mark.parametrize("bits", [8, 4])
def test_hidden_zero_points_and_order_of_registration(bits, grid):
    quant = scheme(bits, output_bits=3, grid=grid)
    module = quant.prepare(layers.populate(Bare, [0, 1]))
    assert (module.first.spec.weight_bits, module.second.spec.weight_bits) == (bits, 3)
    assert (module.first.spec.per_feature, module.second.spec.per_feature) == (True, False)
    obs = observations(2, 3000)
    module.train()(obs)
    assert module.second.codes()[0].zero.min() > 0
    single = layers.take_seed(module, 1)
    found = agreement.measure(single, quant.convert(single), obs[1].numpy())
    assert found.rows_with_a_differing_code <= 0.005 and found.max_tie_distance <= 1e-3


def test_a_seed_taken_out_computes_what_it_computed_in_the_population():
    module = observed(scheme(4), num_seeds=3)
    obs = observations(3, 50)
    with torch.no_grad():
        expected = module(obs)[2:]
        assert torch.equal(layers.take_seed(module, 2).eval()(obs[2:]), expected)


class Twice(Bare):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(self.first(x)))


class EndsInReLU(Bare):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(("make", "said"), [(Twice, "each layer used"), (EndsInReLU, "end in")])
def test_chains_that_the_integer_network_cannot_hold_are_refused(make, said):
    module = scheme().prepare(layers.populate(make, [0]))
    with pytest.raises(ConversionError, match=said):
        scheme().convert(layers.take_seed(module, 0))


def test_sums_that_could_leave_int32_are_refused():
    quant = scheme(8)
    module = quant.prepare(layers.populate(lambda: nn.Sequential(nn.Linear(70_000, 1)), [0]))
    with torch.no_grad():
        module[0].weight.fill_(1.0)
    module.train()(torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(1, 2, 70_000))
    with pytest.raises(ConversionError, match="does not fit int32"):
        quant.convert(layers.take_seed(module, 0))


def test_a_constant_feature_keeps_its_value_on_the_affine_grid():
    low = high = torch.full((1, 1, 1), 3.7)
    grid = grids.affine_grid(low, high, bits=8)
    decoded = grids.decode(grids.encode(torch.full((1, 1, 1), 3.7), grid), grid)
    assert decoded.item() == pytest.approx(3.7, abs=0.01)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + b"x" * 40])
def test_a_damaged_archive_is_one_sentence(tmp_path, content):
    (tmp_path / "policy.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is not a policy that qbench wrote"):
        npz.load(tmp_path / "policy.npz")


def two_layers():
    """x -> code of x -> 0.25 (3 x) -> 2 bits -> outputs 10 q and -10 q."""
    first = IntegerLayer(
        weight=np.array([[3]], np.int8),
        bias=np.array([0], np.int32),
        bits=3,
        multiplier=np.array([2**30], np.int32),
        shift=np.array([32], np.int32),
        offset=np.array([0], np.int64),
        top=3,
    )
    weight, bias = np.array([[1], [-1]], np.int8), np.zeros(2, np.int32)
    return IntegerNetwork(
        input_inverse_scale=np.ones(1, np.float32),
        input_zero=np.zeros(1, np.float32),
        input_top=255,
        layers=(first, IntegerLayer(weight=weight, bias=bias, bits=2)),
        output_scale=np.full(2, 10.0, np.float32),
    )


def tallied(obs, codes, outputs):
    network, tally = two_layers(), agreement.Tally(two_layers())
    obs = np.array(obs, np.float32)[:, None]
    given = [np.array(c, np.float32)[:, None] for c in codes]
    tally.add(obs, network.trace(obs), given, np.array(outputs, np.float32))
    return tally.result()


def test_a_code_at_a_tie_is_counted_and_explains_the_outputs_that_follow_from_it():
    # 0.75 * 2 = 1.5 is a tie: the integers round it up to 2, this form to 1.
    found = tallied([1, 2, 3], [[1, 2, 3], [1, 1, 2]], [[10, -10], [10, -10], [20, -20]])
    assert found.rows_with_a_differing_code == pytest.approx(1 / 3)
    assert found.differing_codes == pytest.approx(1 / 6)
    assert found.max_tie_distance == 0 and found.max_rounding_error == 0
    assert found.max_output_error == pytest.approx(10 / 40 * 255)  # 64 steps, by one code of four
    assert found.unexplained_argmax == 0


def test_the_distance_from_a_tie_is_taken_at_the_form_s_own_codes():
    # The input's code is 0.1 past its tie; 0.75 * 3 = 2.25 is rightly 2 from there.
    found = tallied([2.4], [[3], [2]], [[20, -20]])
    assert found.differing_codes == 1 / 2
    assert found.max_tie_distance == pytest.approx(0.1)
    # 2.25 as 3 is a quarter past the tie; what follows from it is no further difference.
    assert tallied([3], [[3], [3]], [[30, -30]]).max_tie_distance == pytest.approx(0.25)


def test_outputs_must_be_those_of_the_form_s_own_codes():
    found = tallied([1, 3], [[1, 3], [1, 2]], [[10, -10], [20, -20.003]])
    assert found.max_rounding_error == pytest.approx(0.003 / 40, rel=1e-3) and not found.holds
    wrong = tallied([1, 3], [[1, 3], [1, 2]], [[-10, 10], [20, -20]])
    assert (wrong.differing_argmax, wrong.unexplained_argmax) == (1, 1)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"differing_codes": 6e-5}, False),
        ({"max_tie_distance": 2e-3}, False),
        ({"max_rounding_error": 2e-5}, False),
        ({"max_output_error": 85.0}, True),
        ({"unexplained_argmax": 1}, False),
    ],
)
def test_agreement_has_four_conditions(change, holds):
    at_the_limits = agreement.Agreement(10_000, 0.005, 5e-5, 1e-3, 1e-5, 1.0, 3, 0)
    assert at_the_limits._replace(**change).holds is holds
