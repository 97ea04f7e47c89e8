"""Temporal-difference targets and losses: pure functions, one equation each."""

import torch
from torch import Tensor
from torch.nn import functional as F


def one_step_target(reward: Tensor, terminated: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """One-step target, y = r + gamma (1 - d) V(s').

    With V(s') = Q'(s', mu'(s')) it is DDPG's: Lillicrap et al. (2016), Algorithm 1,
    https://arxiv.org/abs/1509.02971. `terminated` excludes time limits: a truncated episode
    still bootstraps (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).

    Args:
        reward: [..., B] float32; leading axes (the seed axis S) pass through.
        terminated: [..., B] bool.
        next_value: [..., B] value of s' by the target networks.
        gamma: discount in [0, 1].

    Returns:
        [..., B] float32, detached from the graph.
    """
    torch._check(reward.shape == terminated.shape == next_value.shape)
    return (reward + gamma * ~terminated * next_value).detach()


def q_learning_target(reward: Tensor, terminated: Tensor, next_q: Tensor, gamma: float) -> Tensor:
    """One-step Q-learning target, y = r + gamma (1 - d) max_a' Q_target(s', a').

    Mnih et al. (2015), Algorithm 1, https://www.nature.com/articles/nature14236.

    Args:
        reward: [..., B] float32.
        terminated: [..., B] bool; time limits excluded.
        next_q: [..., B, A] target-network values at s'.
        gamma: discount in [0, 1].

    Returns:
        [..., B] float32, detached from the graph.
    """
    return one_step_target(reward, terminated, next_q.amax(dim=-1), gamma)


def double_q_learning_target(
    reward: Tensor, terminated: Tensor, next_q: Tensor, next_q_online: Tensor, gamma: float
) -> Tensor:
    """Double Q-learning target, y = r + gamma (1 - d) Q_target(s', argmax_a' Q(s', a')).

    van Hasselt et al. (2016), equation 4, https://arxiv.org/abs/1509.06461.

    Args:
        reward: [..., B] float32.
        terminated: [..., B] bool; time limits excluded.
        next_q: [..., B, A] target-network values at s'.
        next_q_online: [..., B, A] online-network values at s', which choose the action.
        gamma: discount in [0, 1].

    Returns:
        [..., B] float32, detached from the graph.
    """
    torch._check(next_q.shape == next_q_online.shape)
    best = next_q_online.argmax(dim=-1, keepdim=True)
    return one_step_target(reward, terminated, next_q.gather(-1, best)[..., 0], gamma)


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of each element, (y - Q)^2; Mnih et al. (2013), equation 2."""
    torch._check(prediction.shape == target.shape)
    return (target - prediction).square()


def huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber loss of each element with delta = 1: e^2 / 2 if |e| < 1, else |e| - 1/2.

    Its gradient is the error clipped to [-1, 1], as in Mnih et al. (2015), Methods.
    """
    torch._check(prediction.shape == target.shape)
    return F.smooth_l1_loss(prediction, target, reduction="none")


LOSSES = {"huber": huber, "squared": squared}
