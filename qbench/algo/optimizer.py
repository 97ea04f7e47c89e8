"""One Adam for a population: clipping and freezing are per seed."""

import importlib
import logging

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from qbench.dense import place_gradient
from qbench.layers import ROW_MULTIPLE, flatten_parameters

LARGE = 2**18  # numbers of a parameter whose gradient is worth a way of its own
BLOCK = 256  # codes that share a scale, bitsandbytes' own; a multiple of ROW_MULTIPLE
MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")


class PopulationAdam:
    """Adam (Kingma and Ba 2015) on the parameters of S seeds as one [S, P] tensor.

    A seed whose loss or gradient is not finite is frozen from that update on: its
    weights and moments keep their last finite values, the other seeds' bits do not change.

    Args:
        module: network with a seed axis; its parameters become views of one tensor.
        learning_rate: step size.
        max_grad_norm: per-seed limit of the gradient's Euclidean norm; None: no limit.
        alive: [S] bool that several optimizers of the same seeds share; None: one of its own.
        moments_dtype: "float32", or "uint8": bitsandbytes' Adam, whose moments are codes in
            blocks of 256 with one scale each (Dettmers et al. 2022, arXiv 2110.02861).
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float,
        max_grad_norm: float | None,
        alive: Tensor | None = None,
        moments_dtype: str = "float32",
    ) -> None:
        # Blocks of codes must not reach from one seed into the next.
        is_coded = moments_dtype == "uint8"
        self.flat = flatten_parameters(module, BLOCK if is_coded else ROW_MULTIPLE)
        self._parameters = list(module.parameters())
        self.grad = self.flat.grad = torch.zeros_like(self.flat)
        sizes = [p[0].numel() for p in self._parameters]
        columns = self.grad[:, : sum(sizes)].split(sizes, dim=1)
        self._grads = [c.view_as(p) for c, p in zip(columns, self._parameters, strict=True)]
        pairs = zip(self._parameters, self._grads, strict=True)
        self._large = [(p, grad) for p, grad in pairs if p.numel() >= LARGE]
        self.adam = (
            _coded_adam(self.flat, learning_rate)
            if is_coded
            else torch.optim.Adam([self.flat], lr=learning_rate, fused=True)
        )
        # On a GPU as a tensor, where a recorded step reads it anew.
        is_read = self.flat.is_cuda and not is_coded
        self._rate = self.flat.new_tensor(learning_rate) if is_read else None
        self._max_grad_norm = max_grad_norm
        self.set_learning_rate(learning_rate)
        self._ones = self.flat.new_ones(len(self.flat))
        everyone = self._ones.bool()
        self.alive = everyone if alive is None else alive

    def step(self, loss: Tensor) -> None:
        """One step for every living seed; `loss` is [S]."""
        self._differentiate(loss)
        norm = torch.linalg.vector_norm(self.grad, dim=1)  # [S]
        # What is not finite gives NaN, which is less than nothing: 0 inf is NaN.
        self.alive &= torch.add(norm, loss.detach(), alpha=0.0) < float("inf")
        if self._max_grad_norm is not None:
            self._clip(norm, self._max_grad_norm)
        # On a CPU a look costs nothing; on a GPU the work is cheaper than the wait.
        if self.flat.is_cuda or not bool(self.alive.all()):
            self._step_living()
        else:
            self._move()

    def _clip(self, norm: Tensor, most: float) -> None:
        """Scale the gradients whose norm [S] is more than `most`."""
        # On a CPU a look costs less than the work, which nearly all gradients are too short for.
        if self.flat.is_cuda or bool((norm > 0.999 * (most - 1e-6)).any()):
            self.grad.mul_((most / (norm + 1e-6)).clamp_(max=1.0).unsqueeze(1))

    def _differentiate(self, loss: Tensor) -> None:
        """Gradients of `loss` [S] into `grad`; linear layers write large ones there themselves."""
        for parameter, place in self._large:
            place_gradient(parameter, place)
        # A learned scale has no part in the loss before its layer quantizes: its gradient is 0.
        grads = torch.autograd.grad(loss, self._parameters, self._ones, materialize_grads=True)
        torch._foreach_copy_(self._grads, grads)  # which passes over those that are there
        for parameter, _ in self._large:
            place_gradient(parameter, None)

    def _move(self) -> None:
        """An Adam step whose moments are flushed to zero where they sink below 2^-126.

        Those of weights without gradient, a sixth of an MLP's, do so within a thousand updates and
        cost an Intel processor three quarters of a step. They could move a weight by less than
        1e-29. Torch's other threads, where it has any, keep theirs.
        """
        torch.set_flush_denormal(True)
        try:
            self._step_adam()
        finally:
            torch.set_flush_denormal(False)

    def _step_adam(self) -> None:
        """What `adam.step` does, without the 70 us that it takes to find out what that is."""
        state, group = self.adam.state[self.flat], self.adam.param_groups[0]
        if "exp_avg" not in state:  # The first step makes it; coded moments have another name.
            self.adam.step()
            return
        moments = [state["exp_avg"]], [state["exp_avg_sq"]]
        beta1, beta2 = group["betas"]
        adam(
            [self.flat], [self.grad], *moments, [], [state["step"]], fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=0.0, eps=group["eps"],
            maximize=False,
        )  # fmt: skip

    def _step_living(self) -> None:
        """An Adam step after which the frozen seeds' rows are what they were."""
        frozen = ~self.alive.unsqueeze(1)
        self.grad.masked_fill_(frozen, 0.0)
        kept = [self.flat, *self.moments()]
        before = [tensor.clone() for tensor in kept]
        self._move()
        for tensor, old in zip(kept, before, strict=True):
            tensor.copy_(torch.where(frozen, old, tensor))

    def set_learning_rate(self, learning_rate: float) -> None:
        """Step size of the following steps."""
        group = self.adam.param_groups[0]
        group["lr"] = learning_rate if self._rate is None else self._rate.fill_(learning_rate)

    def moments(self) -> list[Tensor]:
        """What Adam keeps, each [S, ...]; empty before the first step.

        The moments [S, P]; of coded ones also the blocks' scales [S, P / 256].
        """
        state = self.adam.state[self.flat]
        return [state[name].view(len(self.flat), -1) for name in MOMENTS if name in state]


def _coded_adam(flat: Tensor, learning_rate: float) -> torch.optim.Optimizer:
    # It would advise to install kernels for language models.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    optim = importlib.import_module("bitsandbytes.optim")
    # min_8bit_size: tensors smaller than its default of 4096 would be left in float32.
    adam: torch.optim.Optimizer = optim.Adam8bit([flat], lr=learning_rate, min_8bit_size=1)
    return adam
