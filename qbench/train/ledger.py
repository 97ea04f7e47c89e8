"""The memory ledger: bytes that training holds, by what they are for (per seed)."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from qbench.replay import ReplayBuffer, ReplaySampler
from qbench.types import Learner

Bytes = dict[str, int]


@runtime_checkable
class HoldsCache(Protocol):
    """A layer that keeps more than parameters and buffers in eval mode."""

    def cached_tensors(self) -> list[Tensor]:
        """What it keeps."""
        ...


def measure(learner: Learner, replay: ReplayBuffer, sampler: ReplaySampler) -> Bytes:
    """The ledger of a learner that has done at least one update.

    Returns:
        Bytes per seed: weights, gradients, optimizer (moments), target, activations, replay,
        other (ranges, and the codes that quantized layers cache for acting and targets).
    """
    num_seeds = len(learner.alive)
    activations = saved_bytes(learner, sampler)
    target = getattr(learner, "target_network", None)
    moments = learner.optimizer.moments()  # type: ignore[attr-defined]
    cached = [cached_tensors(module) for module in (learner.network, target) if module is not None]
    total = {
        "weights": _num_bytes(learner.network.parameters()),
        "gradients": _num_bytes([learner.optimizer.grad]),  # type: ignore[attr-defined]
        "optimizer": _num_bytes(moments),
        "target": _num_bytes(target.parameters()) if target is not None else 0,
        "activations": activations,
        "replay": replay.num_bytes,
        "other": _num_bytes(tensor for tensors in cached for tensor in tensors),
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
    """Bytes that one forward of the loss keeps for its backward, all seeds.

    Unique storages seen by `saved_tensors_hooks`, parameters excluded, the minibatch's
    observations included. A copy of the learner is used: a forward moves ranges.
    """
    copied = copy.deepcopy(learner)
    copied.network.train()
    parameters = {p.untyped_storage().data_ptr() for p in copied.network.parameters()}
    batch = sampler.sample(1)[0]
    batch = batch._replace(**{name: value.clone() for name, value in batch._asdict().items()})
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = copied.loss(batch)  # type: ignore[attr-defined]
    del loss
    return sum(seen.values())


def cached_tensors(module: nn.Module) -> list[Tensor]:
    """Buffers of a network, and the codes that its quantized layers cache in eval mode."""
    module.eval()
    layers = [m for m in module.modules() if isinstance(m, HoldsCache)]
    return [*module.buffers(), *(tensor for m in layers for tensor in m.cached_tensors())]


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


def peak_device_bytes() -> int:
    """Peak of the CUDA allocator; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
