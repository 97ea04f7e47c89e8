"""Adam of a population: what no learner's test shows."""

import torch

from qbench.algo.optimizer import PopulationAdam
from tests.toys import q_population

DENORMAL = torch.tensor([1e-39])


def test_moments_are_flushed_to_zero_and_nothing_else_is():
    optimizer = PopulationAdam(q_population([0, 1]), learning_rate=1e-2, max_grad_norm=None)
    first = optimizer._parameters[0]
    optimizer.step((first**2).flatten(1).sum(1))
    moments = optimizer.moments()[0]
    moments.fill_(1.2e-38)  # 0.9 of it is less than 2^-126.
    before = optimizer.flat.clone()
    optimizer.step((0 * first).flatten(1).sum(1))
    assert not moments.any()
    assert torch.equal(optimizer.flat, before)
    assert (DENORMAL * 1.0).item() != 0  # The rest of the process computes as ever.
