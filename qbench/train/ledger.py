"""The memory ledger: bytes that training holds, by what they are for (per seed)."""

import copy
import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from qbench.replay import Replay, ReplaySampler
from qbench.types import Learner

Bytes = dict[str, int]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@runtime_checkable
class HoldsCache(Protocol):
    """A layer that keeps more than parameters and buffers in eval mode."""

    def cached_tensors(self) -> list[Tensor]:
        """What it keeps."""
        ...


def measure(learner: Learner, replay: Replay, sampler: ReplaySampler) -> Bytes:
    """The ledger of a learner that has done at least one update.

    Returns:
        Bytes per seed: weights, gradients, optimizer (moments), target, activations, replay,
        other (ranges, and the codes that quantized layers cache for acting and targets).
    """
    num_seeds = len(learner.alive)
    activations = saved_bytes(learner, sampler)
    trained, targets = learner.trained().values(), learner.targets().values()
    optimizers = learner.optimizers()
    cached = [tensor for network in (*trained, *targets) for tensor in cached_tensors(network)]
    total = {
        "weights": _num_bytes(p for network in trained for p in network.parameters()),
        "gradients": _num_bytes(optimizer.grad for optimizer in optimizers),
        "optimizer": _num_bytes(m for optimizer in optimizers for m in optimizer.moments()),
        "target": _num_bytes(p for network in targets for p in network.parameters()),
        "activations": activations,
        "replay": replay.num_bytes,
        "other": _num_bytes(cached),
    }
    return {name: count // num_seeds for name, count in total.items()}


def inference_only(module: nn.Module, num_seeds: int) -> Bytes:
    """The ledger of a cell that trains nothing (PTQ): weights and ranges alone."""
    names = ("weights", "gradients", "optimizer", "target", "activations", "replay", "other")
    ledger = dict.fromkeys(names, 0)
    ledger["weights"] = _num_bytes(module.parameters()) // num_seeds
    ledger["other"] = _num_bytes(cached_tensors(module)) // num_seeds
    return ledger


def saved_bytes(learner: Learner, sampler: ReplaySampler) -> int:
    """Bytes that a forward keeps for its backward, all seeds; the largest of the losses.

    Unique storages seen by `saved_tensors_hooks`, the minibatch's observations included;
    parameters excluded, and the codes of them that quantized layers cache: `other` has those.
    A copy of the learner is used: a forward moves ranges.
    """
    copied = copy.deepcopy(learner)
    networks = copied.trained().values()
    parameters = {_address(p) for n in networks for p in n.parameters()}
    batch = sampler.sample(1)[0]
    batch = batch._replace(**{name: value.clone() for name, value in batch._asdict().items()})
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in parameters:
            seen[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    largest = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for loss in copied.losses(batch):
            cached = {_address(tensor) for n in networks for tensor in _codes(n)}
            largest = max(largest, sum(n for at, n in seen.items() if at not in cached))
            seen.clear()
            del loss
    return largest


def cached_tensors(module: nn.Module) -> list[Tensor]:
    """Buffers of a network, and the codes that its quantized layers cache in eval mode."""
    module.eval()
    return [*module.buffers(), *_codes(module)]


def _codes(module: nn.Module) -> list[Tensor]:
    layers = [m for m in module.modules() if isinstance(m, HoldsCache)]
    return [tensor for layer in layers for tensor in layer.cached_tensors()]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def peak_rss_bytes() -> int:
    """Peak resident memory of this process: VmHWM, since `ru_maxrss` survives exec."""
    return _status_bytes("VmHWM")


def rss_bytes() -> int:
    """Resident memory of this process now."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory needs Linux.")


def keep_freed_memory() -> None:
    """Let the C library, where it is glibc, keep what an update frees for the next one.

    It gives back the end of its heap, and blocks from some size on; having those pages again takes
    a twentieth of the time of a quantized CNN. `trim_heap` still gives all of it back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**29)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that mallopt(3) allows


def trim_heap() -> None:
    """Give the heap's free pages back to the system, where the C library is glibc.

    torch's aligned buffers and a simulator's allocations (Box2D builds a world per episode) leave
    holes between each other that glibc keeps: without this a training on LunarLander holds half a
    gigabyte of them after 60,000 steps of six seeds, and its peak says nothing about the network.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_device_bytes() -> int:
    """Peak of the CUDA allocator; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
