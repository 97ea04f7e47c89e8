"""The integer network's own arithmetic, by hand."""

import numpy as np
import pytest

from qbench.quant.integer import IntegerLayer, pack_int4, unpack_int4


def layer(multiplier, shift, zero=0, low=0, top=15):
    return IntegerLayer(
        weight=np.array([[1]], np.int8),
        bias=np.array([0], np.int32),
        bits=8,
        multiplier=np.array([multiplier], np.int32),
        shift=np.array([shift], np.int32),
        offset=np.array([zero << shift], np.int64),
        low=low,
        top=top,
    )


@pytest.mark.parametrize(
    ("accumulator", "code"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (-1, 0), (40, 15)]
)
def test_requantization_halves_with_ties_upwards_and_saturates(accumulator, code):
    assert layer(2**30, 31).requantize(np.array([[accumulator]])).item() == code


def test_negative_ties_round_up_too():
    # -1 / 2 + 5 = 4.5 -> 5 and -3 / 2 + 5 = 3.5 -> 4.
    halved = layer(2**30, 31, zero=5).requantize(np.array([[-1], [-3]]))
    assert halved.ravel().tolist() == [5, 4]


def test_relu_is_the_lower_clamp():
    assert layer(2**30, 31, zero=5, low=5).requantize(np.array([[-6]])).item() == 5


def test_int4_pairs_low_nibble_first():
    packed = pack_int4(np.array([[1, -1, 7]], np.int8))
    assert packed.tolist() == [0xF1, 0x07]
    assert unpack_int4(packed, (1, 3)).tolist() == [[1, -1, 7]]


def test_every_int4_code_survives_packing():
    codes = np.arange(-8, 8, dtype=np.int8)
    assert np.array_equal(unpack_int4(pack_int4(codes), (16,)), codes)


def test_the_bias_is_added_to_the_product():
    linear = IntegerLayer(
        weight=np.array([[2, -3], [1, 1]], np.int8), bias=np.array([10, -1], np.int32), bits=8
    )
    assert linear.accumulate(np.array([[4.0, 5.0]])).tolist() == [[3.0, 8.0]]
