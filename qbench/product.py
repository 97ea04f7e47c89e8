"""Batched matrix products by whichever of PyTorch and NumPy has the wider vectors.

On AMD processors PyTorch's MKL computes in vectors of 256 bits, also where there are 512. The
OpenBLAS that NumPy brings takes those: a cycle of DDPG's 256-256 with four seeds then takes 0.55 of
the time, one of DQN's 120-84 with eight seeds 0.8.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_INFO = Path("/proc/cpuinfo")
KERNELS_OF_512_BITS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def openblas_is_wider() -> bool:
    """Whether NumPy's OpenBLAS computes in wider vectors here than PyTorch's MKL.

    OPENBLAS_CORETYPE in the environment may have chosen its kernels.
    """
    is_amd = CPU_INFO.exists() and "AuthenticAMD" in CPU_INFO.read_text()
    kernels = {
        library.get("architecture")
        for library in threadpool_info()
        if library["internal_api"] == "openblas" and "numpy" in library["filepath"]
    }
    return is_amd and bool(kernels & KERNELS_OF_512_BITS)


IS_WIDER = openblas_is_wider()
LEAST_ROWS = 16  # with fewer the calls take longer than the product


def is_by_numpy(a: Tensor) -> bool:
    """Whether products of `a` [S, M, K] are NumPy's: float32 on a CPU, one thread, no autocast.

    One thread, because NumPy's threads are not torch's to set.
    """
    return (
        IS_WIDER
        and a.shape[1] >= LEAST_ROWS
        and a.dtype is torch.float32
        and a.device.type == "cpu"
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
    )


def product(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """[S, M, K] by [S, K, N] -> [S, M, N], into `out` if it is given; no gradient flows."""
    if not is_by_numpy(a):
        return a @ b if out is None else torch.bmm(a, b, out=out)
    if out is None:
        out = a.new_empty(len(a), a.shape[1], b.shape[2])
    with np.errstate(all="ignore"):  # A diverged seed is frozen by its learner, without a warning.
        np.matmul(_as_array(a), _as_array(b), out=out.numpy())
    return out


def _as_array(matrices: Tensor) -> Any:
    """Matrices as BLAS takes them, by rows or columns; others NumPy sums in a loop of its own."""
    _, rows, columns = matrices.shape
    _, row, column = matrices.stride()
    is_dense = (column == 1 and row >= columns) or (row == 1 and column >= rows)
    return (matrices if is_dense else matrices.contiguous()).detach().numpy()


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Rows `x` [S, B, in] by `weight` [S, out, in], and `bias` [S, out] -> [S, B, out].

    `qbench.layers.affine` does the same in the form whose gradients torch computes fastest.
    """
    if not is_by_numpy(x):
        return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
    result: Tensor = Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class Affine(torch.autograd.Function):
    """x W^T + b and its gradients, once, by `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.mT).add_(bias.unsqueeze(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(grad, weight) if needs_x else None,
            product(grad.mT, x) if needs_weight else None,
            grad.sum(1) if needs_bias else None,
        )
