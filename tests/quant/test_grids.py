"""Grids: the paper's table, hand-worked zeros, level counts."""

import pytest
import torch

from qbench.quant import grids


def bounds(low, high):
    return torch.full((1, 1, 1), low), torch.full((1, 1, 1), high)


def test_table_1_of_the_seed_paper():
    grid = grids.affine_grid(*bounds(-10.0, 30.0), bits=8)
    codes = torch.tensor([[[0.0, 255.0, 128.0]]])
    values = grids.decode(codes, grid)[0, 0].tolist()
    assert values[0] == pytest.approx(-10.0, abs=1e-5)
    assert values[1] == pytest.approx(30.0, abs=1e-5)
    assert values[2] == pytest.approx(-10 + 128 * 40 / 255, abs=1e-5)  # 10.078, printed as 10
    assert [round(value) for value in values] == [-10, 30, 10]
    assert grids.encode(torch.tensor([[[-10.0, 30.0, 10.0]]]), grid)[0, 0].tolist() == [0, 255, 128]


def test_an_integer_zero_point_moves_table_1():
    grid = grids.zero_point_grid(*bounds(-10.0, 30.0), bits=8)
    values = grids.decode(torch.tensor([[[0.0, 128.0, 255.0]]]), grid)[0, 0].tolist()
    assert grid.zero.item() == 64
    assert values == pytest.approx([-10.039, 10.039, 29.961], abs=1e-3)


@pytest.mark.parametrize(("low", "high"), [(0.5, 3.0), (-3.0, -0.5), (-1.0, 2.0)])
def test_a_zero_point_grid_holds_zero_exactly(low, high):
    grid = grids.zero_point_grid(*bounds(low, high), bits=4)
    zero = torch.zeros(1, 1, 1)
    assert grids.decode(grids.encode(zero, grid), grid).item() == 0.0


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("make_grid", grids.GRIDS.values(), ids=grids.GRIDS)
def test_a_grid_has_at_most_two_to_the_bits_levels(bits, make_grid):
    grid = make_grid(*bounds(-1.3, 2.9), bits=bits)
    x = torch.linspace(-5, 5, 10_001).view(1, -1, 1)
    assert grids.encode(x, grid).unique().numel() == 2**bits


def test_an_empty_range_does_not_divide_by_zero():
    grid = grids.zero_point_grid(*bounds(0.0, 0.0), bits=8)
    assert grids.encode(torch.zeros(1, 3, 1), grid).tolist() == [[[0.0], [0.0], [0.0]]]
