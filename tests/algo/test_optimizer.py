"""Adam of a population: what no learner's test shows."""

import pytest
import torch

from qbench.algo import optimizer as optimizers
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


def test_steps_are_those_of_torchs_adam():
    network, same = q_population([0, 1]), q_population([0, 1])
    optimizer = PopulationAdam(network, learning_rate=1e-2, max_grad_norm=None)
    flat = optimizer.flat.clone().requires_grad_()
    adam = torch.optim.Adam([flat], lr=1e-2, fused=True)
    x = torch.randn(2, 8, 4)
    for rate in (1e-2, 1e-2, 5e-3, 1e-3):
        optimizer.set_learning_rate(rate)
        adam.param_groups[0]["lr"] = rate
        optimizer.step(network(x).square().mean((1, 2)))
        flat.grad = optimizer.grad.clone()
        adam.step()
        assert torch.equal(optimizer.flat, flat)
    assert optimizer.adam.state[optimizer.flat]["step"].item() == 4
    assert not torch.equal(next(network.parameters()), next(same.parameters()))


def test_gradients_of_large_layers_are_the_same_and_leave_nothing_behind(monkeypatch):
    x, found, handed = torch.randn(2, 8, 4), [], []
    copy = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *call: handed.append(call) or copy(*call))
    for large in (1, 10**9):
        monkeypatch.setattr(optimizers, "LARGE", large)
        network = q_population([0, 1])
        optimizer = PopulationAdam(network, learning_rate=1e-2, max_grad_norm=1.0)
        for _ in range(3):
            optimizer.step(network(x).square().mean((1, 2)))
        found.append((optimizer.flat, optimizer.grad))
        assert all(p.grad is None for p in network.parameters())
        is_there = [to.data_ptr() == of.data_ptr() for to, of in zip(*handed[-1], strict=True)]
        assert is_there == [large == 1 and to.ndim == 3 for to in handed[-1][0]]  # weights
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][1].any(dim=1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_freezes_its_seed(bad):
    optimizer = PopulationAdam(q_population([0, 1]), learning_rate=1e-2, max_grad_norm=None)
    first = optimizer._parameters[0]
    before = optimizer.flat.clone()
    optimizer.step(first.flatten(1).sum(1) + torch.tensor([bad, 0.0]))
    assert optimizer.alive.tolist() == [False, True]
    assert torch.equal(optimizer.flat[0], before[0])
    assert not torch.equal(optimizer.flat[1], before[1])


def test_a_gradient_just_above_its_limit_is_scaled():
    optimizer = PopulationAdam(q_population([0, 1]), learning_rate=1e-2, max_grad_norm=2.0)
    first = optimizer._parameters[0]
    slopes = torch.tensor([1.999, 2.001]) / first[0].numel() ** 0.5
    optimizer.step((first.flatten(1) * slopes.unsqueeze(1)).sum(1))
    norms = optimizer.grad.norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.999, 2.0]), rtol=1e-6, atol=0.0)
