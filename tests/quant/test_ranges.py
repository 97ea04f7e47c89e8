"""Scales and ranges by hand, and as least-squares searches must find them."""

import pytest
import torch

from qbench.quant import fake, grids, ranges

ROW = (-1,)


def test_the_largest_weight_is_the_largest_code():
    weight = torch.tensor([[[0.5, -3.5, 1.0]]])
    scale = ranges.largest_magnitude(weight, 4, ROW)
    assert scale.item() == 0.5
    codes = ranges.round_weights(weight / scale, 4, can_clip=False)
    assert codes.flatten().tolist() == [1, -7, 2]


def test_binary_weights_take_the_mean_magnitude():
    weight = torch.tensor([[[1.0, -2.0, 3.0, 0.0]]])
    scale = ranges.mean_magnitude(weight, 1, ROW)
    assert scale.item() == 1.5
    codes = ranges.round_weights(weight / scale, 1, can_clip=True)
    assert codes.flatten().tolist() == [1, -1, 1, 1]


def test_ternary_weights_take_the_mean_of_the_large_ones():
    # Mean magnitude 0.8, threshold 0.56: 1, 1 and 1.8 are above it.
    weight = torch.tensor([[[1.0, -1.0, 0.1, 0.1, 1.8]]])
    scale = ranges.mean_magnitude(weight, 2, ROW)
    assert scale.item() == pytest.approx(3.8 / 3)
    codes = ranges.round_weights(weight / scale, 2, can_clip=True)
    assert codes.flatten().tolist() == [1, -1, 0, 0, 1]


def test_ternary_weights_that_are_all_zero_have_scale_zero():
    assert ranges.mean_magnitude(torch.zeros(1, 2, 3), 2, ROW).flatten().tolist() == [0, 0]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_share_of_the_largest_weight_errs_less_than_the_least_squares_scale(bits):
    weight = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(bits))
    top, widest = 2 ** (bits - 1) - 1, ranges.largest_magnitude(weight, bits, ROW)

    def error(scale):
        return ((weight / scale).round().clamp(-top, top) * scale - weight).square().sum(-1)

    found = error(ranges.least_squares_scale(weight, bits, ROW))
    for fraction in ranges.FRACTIONS:
        assert (found <= error(fraction * widest)).all()
    assert (found < error(widest)).all() or bits == 8


def test_a_lone_outlier_is_clipped_by_least_squares_and_kept_by_the_largest():
    weight = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([2.5])]).view(1, 1, -1)
    assert ranges.largest_magnitude(weight, 4, ROW).item() == pytest.approx(2.5 / 7)
    assert 1 / 8 < ranges.least_squares_scale(weight, 4, ROW).item() < 1.3 / 7


def test_percentiles_leave_out_the_same_share_at_either_end():
    x = torch.stack([torch.arange(1001.0), 2 * torch.arange(1001.0)]).view(2, 7, 143)
    found = ranges.percentiles(x, 99.0).flatten().tolist()
    assert found == pytest.approx([10, 990, 20, 1980])
    assert ranges.percentiles(x, 100.0).tolist() == [[0, 1000], [0, 2000]]


def test_the_least_squares_range_of_evenly_spread_values_is_all_of_them():
    x = torch.linspace(0, 3, 256).view(1, 1, -1)
    assert ranges.least_squares_range(x, 8).tolist() == [[0, 3]]


def test_the_least_squares_range_clips_a_lone_outlier():
    x = torch.cat(
        [torch.rand(1999, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0])]
    )
    low, high = ranges.least_squares_range(x.view(1, 1, -1), 2)[0].tolist()
    assert 0 <= low < 0.01 and 0.9 < high < 1.5


def test_one_bit_codes_are_both_used_and_survive_the_layer():
    weight, bias = torch.tensor([[[1.0, -2.0], [3.0, 1.0]]]), torch.tensor([[0.5, -1.0]])
    one = torch.ones(1, 1, 1)
    unit = grids.Grid(one, one, 0 * one, 0 * one, 255, True)
    codes = fake.encode_layer(weight, bias, unit, bits=1, per_channel=True, weight_range="mean")
    assert codes.weight.tolist() == [[[1, -1], [1, 1]]]
    assert codes.scale.tolist() == [[1.5, 2.0]]
    assert codes.bias.tolist() == [[0, 0]]  # 0.33 and -0.5 units of the scale; ties to even
