"""Learned steps and learned clipping: starts and gradients by hand, and the laws of every layer."""

import math

import pytest
import torch

from qbench import layers
from qbench.quant import agreement, grids
from qbench.quant.layer import LayerSpec, QuantLayer
from qbench.quant.learned import CLIP_DECAY, LearnedLayer
from tests.algo.test_dqn import random_batch
from tests.quant.test_qat import learner_of, observations, observed, same, scheme
from tests.toys import q_population

LEARNED = {"range": "learned", "weight_range": "learned"}


def layer(weight, bias, *, bits, activation="learned", weights="max"):
    plain = layers.Linear(
        torch.nn.Parameter(torch.tensor([weight])), torch.nn.Parameter(torch.tensor([bias]))
    )
    spec = LayerSpec(
        weight_bits=8,
        input_bits=bits,
        per_channel=True,
        weight_range=weights,
        per_feature=False,
        range=activation,
        percentile=99.9,
        grid="zero_point",
    )
    return LearnedLayer(plain, spec).train()


def set_step(parameter, value):
    parameter.data.fill_(math.log(value))


def test_the_inputs_step_starts_at_twice_the_mean_magnitude_over_the_root_of_the_top():
    quantized = layer([[1.0, 1.0]], [0.0], bits=4)
    quantized(torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]))
    assert quantized.input_step.exp().item() == pytest.approx(2 * 2.0 / 15**0.5)


def test_the_weights_steps_start_at_twice_their_mean_magnitude_over_the_root_of_the_top():
    quantized = layer([[1.0, -3.0], [0.5, 0.5]], [0.0, 0.0], bits=4, weights="learned")
    expected = [2 * 2.0 / 127**0.5, 2 * 0.5 / 127**0.5]
    assert quantized.weight_step.exp()[0].tolist() == pytest.approx(expected)


def test_clipping_starts_at_the_largest_input():
    quantized = layer([[1.0, 1.0]], [0.0], bits=4, activation="clipped")
    quantized(torch.tensor([[[1.0, 3.0], [0.0, 4.5]]]))
    assert quantized.input_step.exp().item() == pytest.approx(4.5 / 15)


def test_values_below_zero_place_the_grids_zero_in_the_middle():
    quantized = layer([[1.0, 1.0]], [0.0], bits=4)
    quantized(torch.tensor([[[1.0, -3.0], [0.0, 4.0]]]))
    grid, _ = quantized.codes()
    assert grid.zero.item() == 8


def test_the_gradient_of_a_learned_step_by_hand():
    # Step 1, top 3: 0.4 -> 0, 1.6 -> 2, 7 -> 3 with d x_hat / d s = -0.4, 0.4 and 3. Weights are
    # codes 127 of scale 1/127, so outputs are the decoded inputs; LSQ scales by 1/sqrt(1 * 3).
    quantized = layer([[1.0]], [0.0], bits=2)
    x = torch.tensor([[[0.4], [1.6], [7.0]]], requires_grad=True)
    quantized(x.detach())
    set_step(quantized.input_step, 1.0)
    y = quantized(x)
    assert y.flatten().tolist() == pytest.approx([0, 2, 3])
    (y * torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1)).sum().backward()
    expected = (-0.4 + 10 * 0.4 + 100 * 3.0) / 3**0.5
    assert quantized.input_step.grad.item() == pytest.approx(expected, rel=1e-5)
    assert x.grad.flatten().tolist() == pytest.approx([1.0, 10.0, 0.0])


def test_the_gradient_of_a_learned_weight_step_by_hand():
    # Step 0.5, top 127: 0.6 -> 1.2 -> 1, so d w_hat / d s = 1 - 1.2; x is its own code, 2.
    quantized = layer([[0.6]], [0.0], bits=8, weights="learned", activation="min_max")
    quantized(torch.tensor([[[0.0], [255.0]]]))
    set_step(quantized.weight_step, 0.5)
    quantized.input_range.copy_(torch.tensor([0.0, 255.0]).view(1, 2, 1) / (1 + 2**-11))
    y = quantized(torch.tensor([[[2.0]]]))
    y.sum().backward()
    scale = quantized.codes()[0].scale.item()
    decoded = scale * round(2.0 / scale)
    expected = decoded * (1 - 1.2) * 0.5 / 127**0.5
    assert quantized.weight_step.grad.item() == pytest.approx(expected, rel=1e-3)
    assert quantized.weight.grad.item() == pytest.approx(decoded, rel=1e-5)


def test_only_clipped_values_move_a_clipping_level():
    # Step 1, top 3, so the level is 3; its gradient is that of 7 alone, and the decay's.
    quantized = layer([[1.0]], [0.0], bits=2, activation="clipped")
    x = torch.tensor([[[0.4], [1.6], [7.0]]], requires_grad=True)
    quantized(x.detach())
    set_step(quantized.input_step, 1.0)
    (quantized(x) * torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1)).sum().backward()
    assert quantized.input_step.grad.item() == pytest.approx(100 * 3.0 + 2 * CLIP_DECAY, rel=1e-6)
    assert x.grad.flatten().tolist() == pytest.approx([1.0, 10.0, 0.0])


def test_prepared_keys_are_float_keys_plus_ranges_and_steps():
    plain, prepared = q_population([0]), scheme(4, **LEARNED).prepare(q_population([0]))
    added = set(prepared.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(prepared.state_dict())
    names = {name.rsplit(".", 1)[1] for name in added}
    assert names == {"input_range", "input_step", "weight_step"}


@pytest.mark.parametrize("changes", [LEARNED, {"range": "clipped"}, {"weight_range": "learned"}])
def test_training_and_evaluation_compute_the_same(changes):
    module = observed(scheme(4, **changes))
    obs = observations(2, 100)
    expected = module.eval()(obs)
    for quantized in (m for m in module.modules() if isinstance(m, QuantLayer)):
        quantized.set_phase(is_quantizing=True, is_frozen=True)
    learned = module.train()(obs)
    assert learned.requires_grad and torch.equal(learned, expected)


@pytest.mark.parametrize("changes", [LEARNED, {"range": "clipped"}])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_integers_agree_after_steps_have_moved(bits, changes):
    quant = scheme(bits, **changes)
    learner = learner_of(quant.prepare(q_population([0, 1])), learning_rate=1e-2)
    start = None
    for i in range(40):
        learner.update(random_batch(2, first_seed=i))
        start = start or [p.detach().clone() for p in learner.network.parameters()]
    steps = [
        (before, after)
        for (name, after), before in zip(learner.network.named_parameters(), start, strict=True)
        if name.endswith("_step")
    ]
    assert steps and all(not torch.equal(before, after) for before, after in steps)
    single = layers.take_seed(learner.network.eval(), 1)
    found = agreement.measure(single, quant.convert(single), observations(1, 2000)[0].numpy())
    assert found.rows_with_a_differing_code <= 0.005 and found.max_tie_distance <= 1e-3


def test_every_learned_tensor_holds_at_most_two_to_the_bits_levels():
    module = observed(scheme(3, **LEARNED))
    for quantized in (m for m in module.modules() if isinstance(m, LearnedLayer)):
        grid, codes = quantized.codes()
        assert codes.weight.unique().numel() <= 7 and codes.weight.abs().max() <= 3
        codes_of_inputs = grids.encode(1000 * torch.randn(2, 50, quantized.weight.shape[2]), grid)
        assert codes_of_inputs.max() <= grid.top


def test_the_first_update_hands_the_steps_to_the_target():
    learner = learner_of(scheme(4, **LEARNED).prepare(q_population([0])))
    before = [p.clone() for p in learner.target.network.parameters()]
    learner.losses(random_batch(1)).__next__()
    assert same(learner.network.parameters(), learner.target.network.parameters())
    assert not same(before, learner.target.network.parameters())


@pytest.mark.parametrize("changes", [LEARNED, {"range": "clipped"}])
def test_a_learned_seed_is_bit_identical_in_any_population(changes):
    alone = learner_of(scheme(4, **changes).prepare(q_population([3])))
    crowd = learner_of(scheme(4, **changes).prepare(q_population([3, 4, 5])))
    for i in range(50):
        alone.update(random_batch(1, 32, first_seed=i))
        crowd.update(random_batch(3, 32, first_seed=i))
        alone.sync_target(0.1), crowd.sync_target(0.1)
    assert torch.equal(alone.optimizer.flat[0], crowd.optimizer.flat[0])
