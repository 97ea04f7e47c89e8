"""Random streams: per seed, whatever the population and the request size."""

import numpy as np

from qbench import streams


def test_a_seed_sees_the_same_numbers_in_any_population():
    alone = streams.Uniforms([7], "replay", block=16).next(40)
    crowd = streams.Uniforms([3, 7, 11], "replay", block=16).next(40)
    assert np.array_equal(alone[0], crowd[1])


def test_request_sizes_do_not_change_the_numbers():
    whole = streams.Uniforms([0, 1], "explore", block=8).next(30)
    parts = streams.Uniforms([0, 1], "explore", block=8)
    pieced = np.concatenate([parts.next(n).copy() for n in (1, 7, 3, 19)], axis=1)
    assert np.array_equal(whole, pieced)


def test_purposes_are_independent():
    one, other = (streams.generator(0, p).random(1000) for p in ("replay", "explore"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert streams.integer(0, "env") != streams.integer(0, "weights")


def test_every_seed_sees_other_numbers():
    one, other = streams.Uniforms([0, 1], "replay").next(1000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert len({streams.integer(seed, "env") for seed in range(100)}) == 100
