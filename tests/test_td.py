"""Targets and losses against values worked by hand."""

import torch

from qbench import td

REWARD = torch.tensor([1.0, 2.0])
NEXT_Q = torch.tensor([[1.0, 3.0], [5.0, 4.0]])


def test_target_is_reward_plus_discounted_best_value():
    y = td.q_learning_target(REWARD, torch.tensor([False, False]), NEXT_Q, 0.5)
    assert y.tolist() == [1 + 0.5 * 3, 2 + 0.5 * 5]


def test_termination_cuts_the_bootstrap():
    y = td.q_learning_target(REWARD, torch.tensor([True, False]), NEXT_Q, 0.5)
    assert y.tolist() == [1.0, 4.5]


def test_double_target_takes_the_online_networks_choice():
    online = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    y = td.double_q_learning_target(REWARD, torch.tensor([False, False]), NEXT_Q, online, 0.5)
    assert y.tolist() == [1 + 0.5 * 1, 2 + 0.5 * 4]


def test_targets_pass_leading_axes_through():
    reward, terminated = REWARD.expand(3, 2), torch.zeros(3, 2, dtype=torch.bool)
    y = td.q_learning_target(reward, terminated, NEXT_Q.expand(3, 2, 2), 0.5)
    assert y.tolist() == [[2.5, 4.5]] * 3


def test_targets_carry_no_gradient():
    next_q = NEXT_Q.clone().requires_grad_()
    terminated = torch.tensor([False, False])
    assert not td.q_learning_target(REWARD, terminated, next_q, 0.5).requires_grad
    assert not td.double_q_learning_target(REWARD, terminated, next_q, next_q, 0.5).requires_grad


def test_huber_is_quadratic_within_one_and_linear_beyond():
    prediction, target = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.5, 1.0, -3.0])
    assert td.huber(prediction, target).tolist() == [0.125, 0.5, 2.5]


def test_hubers_gradient_is_the_clipped_error():
    q = torch.zeros(3, requires_grad=True)
    td.huber(q, torch.tensor([0.5, 4.0, -4.0])).sum().backward()
    assert q.grad.tolist() == [-0.5, -1.0, 1.0]


def test_squared_loss():
    assert td.squared(torch.tensor([1.0]), torch.tensor([-2.0])).tolist() == [9.0]
