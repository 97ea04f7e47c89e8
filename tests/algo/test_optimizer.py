"""Adam of a population: what no learner's test shows."""

import torch

from qbench.algo.optimizer import PopulationAdam
from tests.toys import q_population

DENORMAL = torch.tensor([1e-39])


def test_moments_are_flushed_to_zero_and_nothing_else_is(one_thread):
    optimizer = PopulationAdam(q_population([0, 1]), learning_rate=1e-2, max_grad_norm=None)
    first = optimizer._parameters[0]
    optimizer.step((first**2).flatten(1).sum(1))
    before = optimizer.flat.clone()
    for freezes in (False, True):
        moments = optimizer.moments()[0]
        moments.fill_(1.2e-38)  # 0.9 of it is less than 2^-126.
        loss = (0 * first).flatten(1).sum(1)
        optimizer.step(loss + torch.tensor([0.0, float("nan")]) if freezes else loss)
        assert not moments[: 1 if freezes else 2].any()
        assert torch.equal(optimizer.flat, before)
    assert (DENORMAL * 1.0).item() != 0  # The rest of the process computes as ever.


def test_a_gradient_that_is_not_finite_freezes_a_seed_whose_loss_is():
    optimizer = PopulationAdam(q_population([0, 1]), learning_rate=1e-2, max_grad_norm=None)
    first = optimizer._parameters[0]
    before = optimizer.flat.clone()
    root = (first[0] - first[0].detach()).sum().sqrt()  # 0, with the slope of sqrt at 0
    optimizer.step(torch.stack((root, first[1].sum())))
    assert optimizer.alive.tolist() == [False, True]
    assert torch.equal(optimizer.flat[0], before[0])
    assert not torch.equal(optimizer.flat[1], before[1])


def test_only_a_gradient_above_the_limit_is_scaled():
    optimizer = PopulationAdam(q_population([0, 1, 2]), learning_rate=1e-2, max_grad_norm=2.0)
    first = optimizer._parameters[0]
    slopes = torch.tensor([1.0, 3.0, 1.0]) / first[0].numel() ** 0.5
    optimizer.step((first.flatten(1) * slopes.unsqueeze(1)).sum(1))
    norms = optimizer.grad.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 2.0, 1.0]))
    optimizer.step((first.flatten(1) * slopes[:1]).sum(1))
    torch.testing.assert_close(optimizer.grad.norm(dim=1), torch.ones(3))
