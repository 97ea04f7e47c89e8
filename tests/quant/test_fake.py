"""The arithmetic of a fake-quantized layer: hand-worked codes, gradients."""

import pytest
import torch

from qbench.quant import fake, grids
from tests.quant.test_grids import bounds


def layer_codes(weight, bias, grid, bits=8, per_channel=True):
    weight, bias = torch.tensor([weight]), torch.tensor([bias])
    return fake.encode_layer(
        weight, bias, grid, bits=bits, per_channel=per_channel, weight_range="max"
    )


ONE, NONE = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
UNIT = grids.Grid(ONE, ONE, NONE, NONE, 255, True)


def test_weight_codes_by_hand():
    codes = layer_codes([[7.0, -3.0], [0.7, 0.35]], [0.0, 0.0], UNIT, bits=4)
    assert codes.weight.tolist() == [[[7, -3], [7, 4]]]  # 0.35 / 0.1 = 3.5 to the even code 4
    assert codes.scale.tolist() == [[1.0, pytest.approx(0.1)]]


def test_per_tensor_weights_share_one_scale():
    codes = layer_codes([[7.0, -3.0], [0.7, 0.35]], [0.0, 0.0], UNIT, bits=4, per_channel=False)
    assert codes.weight.tolist() == [[[7, -3], [1, 0]]]
    assert codes.scale.tolist() == [[1.0, 1.0]]


def test_w_and_minus_w_round_alike():
    weight = torch.randn(1, 5, 9)
    plus = fake.encode_layer(
        weight, torch.zeros(1, 5), UNIT, bits=4, per_channel=True, weight_range="max"
    )
    minus = fake.encode_layer(
        -weight, torch.zeros(1, 5), UNIT, bits=4, per_channel=True, weight_range="max"
    )
    assert torch.equal(plus.weight, -minus.weight)
    assert plus.weight.abs().max() <= 7


def test_a_dead_channel_keeps_its_bias():
    codes = layer_codes([[0.0, 0.0], [1e-20, 0.0]], [1.0, -5.0], UNIT)
    values = codes.bias * codes.scale
    assert values.tolist() == [[pytest.approx(1.0, rel=1e-6), pytest.approx(-5.0, rel=1e-6)]]
    assert codes.bias.abs().max() <= fake.BIAS_CODE_LIMIT


def test_all_zero_layers_give_zeros():
    codes = layer_codes([[0.0, 0.0]], [0.0], UNIT)
    assert codes.weight.tolist() == [[[0, 0]]] and codes.bias.tolist() == [[0]]


def test_the_bias_lies_on_the_accumulators_grid():
    codes = layer_codes([[127.0, 1.0]], [2.4], UNIT)
    assert codes.scale.item() == 1.0 and codes.bias.item() == 2


@pytest.mark.parametrize("name", grids.GRIDS)
@pytest.mark.parametrize("per_feature", [False, True])
def test_forward_is_the_product_of_the_decoded_tensors(name, per_feature):
    torch.manual_seed(0)
    shape = (3, 1, 4 if per_feature else 1)
    grid = grids.GRIDS[name](-torch.rand(shape) - 0.5, torch.rand(shape) + 0.5, bits=8)
    x, weight, bias = torch.randn(3, 6, 4), torch.randn(3, 5, 4), torch.randn(3, 5)
    codes = fake.encode_layer(weight, bias, grid, bits=8, per_channel=True, weight_range="max")
    y = fake.apply(x, weight, bias, grid, codes, None)
    x_hat = grids.decode(grids.encode(x, grid), grid)
    w_hat = codes.weight * codes.scale.unsqueeze(-1) / grid.scale
    expected = x_hat @ w_hat.transpose(1, 2) + bias.unsqueeze(1)
    # The only other rounding is the bias's, at most half a step of the accumulator.
    assert ((y - expected).abs() <= 0.5 * codes.scale.unsqueeze(1) + 1e-5).all()


@pytest.mark.parametrize("name", grids.GRIDS)
@pytest.mark.parametrize("per_feature", [False, True])
def test_gradients_are_straight_through(name, per_feature):
    """Against autograd through x + (x_hat - x).detach() with an explicit clamp."""
    torch.manual_seed(0)
    shape = (2, 1, 4 if per_feature else 1)
    grid = grids.GRIDS[name](-torch.rand(shape) - 0.3, torch.rand(shape) + 0.3, bits=4)
    x, weight = torch.randn(2, 9, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    bias = torch.randn(2, 5, requires_grad=True)
    codes = fake.encode_layer(
        weight.detach(), bias.detach(), grid, bits=8, per_channel=True, weight_range="max"
    )

    def straight_through(value, quantized):
        return value + (quantized - value).detach()

    low = (-0.5 - grid.zero) * grid.scale
    high = (grid.top + 0.5 - grid.zero) * grid.scale
    x_hat = straight_through(
        torch.minimum(torch.maximum(x, low), high), grids.decode(grids.encode(x, grid), grid)
    )
    w_hat = straight_through(weight, codes.weight * codes.scale.unsqueeze(-1) / grid.scale)
    expected = x_hat @ w_hat.transpose(1, 2) + bias.unsqueeze(1)
    actual = fake.apply(x, weight, bias, grid, codes, None)
    upstream = torch.randn_like(actual)
    pairs = zip(
        torch.autograd.grad(actual, (x, weight, bias), upstream),
        torch.autograd.grad(expected, (x, weight, bias), upstream),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_codes_agree_with_torchs_own_fake_quantization():
    torch.manual_seed(0)
    grid = grids.zero_point_grid(*bounds(-1.0, 2.0), bits=8)
    x = torch.randn(1, 200, 3)
    expected = torch.fake_quantize_per_tensor_affine(
        x, grid.scale.item(), int(grid.zero.item()), 0, grid.top
    )
    torch.testing.assert_close(grids.decode(grids.encode(x, grid), grid), expected)
    weight = torch.randn(1, 6, 11)
    codes = fake.encode_layer(
        weight, torch.zeros(1, 6), UNIT, bits=4, per_channel=True, weight_range="max"
    )
    expected = torch.fake_quantize_per_channel_affine(
        weight[0], codes.scale[0], torch.zeros(6, dtype=torch.int32), 0, -7, 7
    )
    torch.testing.assert_close(codes.weight[0] * codes.scale[0].unsqueeze(-1), expected)
