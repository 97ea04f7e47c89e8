"""CUDA graphs: what Python launches on a GPU, recorded once and launched again in one call.

An update of a small network is some hundred kernels of a few microseconds, and Python takes
several times as long to launch them. A replay runs no Python: it reads and writes where the
recorded call did, and whatever Python decided then is a key that recordings are found by.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from qbench.train.errors import ConfigError
from qbench.train.phases import Phases
from qbench.types import FloatArray, Metrics, ObsArray, RecordableLearner, Transition

WARM_UPS = 3  # plain calls of a kind before one is recorded: the first ones set libraries up

Result = TypeVar("Result")


class Recording(Generic[Result]):
    """One call of `work` on a GPU.

    Args:
        work: gives tensors, and waits for none of them.
        inputs: on the GPU; later ones of the same shapes and dtypes are copied to their places.
        pool: memory that recordings share, which never run at the same time.

    Raises:
        ConfigError: `work` does what no graph can hold.
    """

    def __init__(self, work: Callable[..., Result], inputs: Sequence[Tensor], pool: Any) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph, pool=pool):
                self._outputs = work(*self._inputs)
        except RuntimeError as error:
            _explain(error)
            raise

    def __call__(self, inputs: Sequence[Tensor]) -> Result:
        """What `work` gives at other inputs; the next call overwrites it."""
        for own, given in zip(self._inputs, inputs, strict=True):
            # `copy_` would cast and repeat what is given.
            torch._check(own.shape == given.shape and own.dtype == given.dtype)
            own.copy_(given)
        self._graph.replay()
        return self._outputs


def _explain(error: BaseException) -> None:
    """Raise a sentence if an error, or one that it hides, is about recording."""
    first = error
    while first.__context__ is not None:  # Ending a broken recording raises another.
        first = first.__context__
    line = str(first).partition("\n")[0]
    if "captur" in f"{first} {error}":
        raise ConfigError(
            "this network, quant or algo does in an update or an action what no CUDA graph can"
            f" hold, such as waiting for the GPU: add trainer.cuda_graphs=false ({line})"
        ) from first


class Recordings(Generic[Result]):
    """Calls of `work`, plain ones at first and then replays, by what Python decides in them.

    A recording knows its tensors by their places: whoever puts others there calls `forget`.

    Args:
        work: of tensors; calls of one key in one phase are the same operations on the same memory.
        phases: of the networks that `work` uses.
        drop_kept: makes `work` compute anew what it keeps from call to call.
    """

    def __init__(
        self, work: Callable[..., Result], phases: Phases, drop_kept: Callable[[], None]
    ) -> None:
        self._work = work
        self._phases = phases
        self._drop_kept = drop_kept
        self.forget()

    def forget(self) -> None:
        """Begin anew; the memory of recordings becomes free."""
        self._num_changes = self._phases.num_changes
        self._pool = torch.cuda.graph_pool_handle()
        self.recordings: dict[Hashable, Recording[Result]] = {}
        self._num_calls: Counter[Hashable] = Counter()

    def __call__(self, key: Hashable, inputs: Sequence[Tensor]) -> tuple[Result, bool]:
        """The result, and whether Python ran."""
        if self._num_changes != self._phases.num_changes:
            self.forget()
        known = self.recordings.get(key)
        if known is not None:
            return known(inputs), False
        self._num_calls[key] += 1
        if self._num_calls[key] <= WARM_UPS:
            return self._work(*inputs), True
        # Codes that were cached before are not the recording's to read, nor its own anybody else's.
        self._drop_kept()
        self.recordings[key] = Recording(self._work, inputs, self._pool)
        self._drop_kept()
        return self.recordings[key](inputs), True


class RecordedUpdates:
    """`learner.update`, to the same bits.

    Args:
        learner: on a GPU.
        phases: of its networks, which change what an update is.
    """

    def __init__(self, learner: RecordableLearner, phases: Phases) -> None:
        self._learner = learner
        self._trained = list(learner.trained().values())
        targets = learner.targets().values()
        self.calls = Recordings(self._update, phases, lambda: _drop_codes(targets))

    def _update(self, *batch: Tensor) -> Metrics:
        return self._learner.update(Transition(*batch))

    def __call__(self, batch: Transition) -> Metrics:
        """One update of every seed; the next one may overwrite what is reported."""
        metrics, has_run = self.calls(self._learner.turn, batch)
        if not has_run:
            self._learner.count_update()
            for network in self._trained:
                if not network.training:  # Codes that others cached there are of older weights.
                    network.train()
        return metrics


class RecordedOutputs:
    """What `module` computes in eval mode at one observation per seed.

    Args:
        module: on a GPU.
        phases: of the networks of its learner.
    """

    def __init__(self, module: nn.Module, phases: Phases) -> None:
        self._module = module
        self._device = next(module.parameters()).device
        self.calls = Recordings(self._outputs, phases, lambda: _drop_codes([module]))

    @torch.no_grad()
    def _outputs(self, obs: Tensor) -> Tensor:
        if self._module.training:
            self._module.eval()
        return self._module(obs)[:, 0]

    def __call__(self, obs: ObsArray, /) -> FloatArray:
        """Outputs [S, A] at obs [S, *obs_shape]."""
        given = torch.from_numpy(obs).unsqueeze(1).to(self._device)
        return self.calls(None, [given])[0].cpu().numpy()


def _drop_codes(networks: Iterable[nn.Module]) -> None:
    """Have quantized layers make their codes anew, which they do on entering a mode."""
    for network in networks:
        network.eval()
