"""One Adam for a population: clipping and freezing are per seed."""

import torch
from torch import Tensor, nn

from qbench.layers import flatten_parameters


class PopulationAdam:
    """Adam (Kingma and Ba 2015) on the parameters of S seeds as one [S, P] tensor.

    A seed whose loss or gradient is not finite is frozen from that update on: its
    weights and moments keep their last finite values, the other seeds' bits do not change.

    Args:
        module: network with a seed axis; its parameters become views of one tensor.
        learning_rate: step size.
        max_grad_norm: per-seed limit of the gradient's Euclidean norm; None: no limit.
        alive: [S] bool that several optimizers of the same seeds share; None: one of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float,
        max_grad_norm: float | None,
        alive: Tensor | None = None,
    ) -> None:
        self.flat = flatten_parameters(module)
        self._parameters = list(module.parameters())
        self.grad = self.flat.grad = torch.zeros_like(self.flat)
        used = sum(p[0].numel() for p in self._parameters)
        self._padding = torch.zeros_like(self.flat[:, used:])
        self.adam = torch.optim.Adam([self.flat], lr=learning_rate, fused=True)
        self._max_grad_norm = max_grad_norm
        everyone = torch.ones(self.flat.shape[0], dtype=torch.bool, device=self.flat.device)
        self.alive = everyone if alive is None else alive

    def step(self, loss: Tensor) -> None:
        """One step for every living seed; `loss` is [S]."""
        grads = torch.autograd.grad(loss.sum(), self._parameters)
        torch.cat([*(g.flatten(1) for g in grads), self._padding], dim=1, out=self.grad)
        norm = torch.linalg.vector_norm(self.grad, dim=1)  # [S]
        self.alive &= norm.isfinite() & loss.detach().isfinite()
        if self._max_grad_norm is not None:
            clip = (self._max_grad_norm / (norm + 1e-6)).clamp_(max=1.0)
            self.grad.mul_(clip.unsqueeze(1))
        # On a CPU this look costs nothing; on a GPU the blend is cheaper than the wait.
        if self.flat.is_cuda or not bool(self.alive.all()):
            self._step_living()
        else:
            self.adam.step()

    def _step_living(self) -> None:
        """An Adam step after which the frozen seeds' rows are what they were."""
        frozen = ~self.alive.unsqueeze(1)
        self.grad.masked_fill_(frozen, 0.0)
        kept = [self.flat, *self.moments()]
        before = [tensor.clone() for tensor in kept]
        self.adam.step()
        for tensor, old in zip(kept, before, strict=True):
            tensor.copy_(torch.where(frozen, old, tensor))

    def set_learning_rate(self, learning_rate: float) -> None:
        """Step size of the following steps."""
        self.adam.param_groups[0]["lr"] = learning_rate

    def moments(self) -> list[Tensor]:
        """The moments Adam keeps, each [S, P]; empty before the first step."""
        state = self.adam.state[self.flat]
        return [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]
