"""Recorded updates and actions, on a CPU that plays the GPU's part.

A replay runs the recorded call with Python as it was when it was recorded, and leaves nothing of it
in Python; recording computes nothing, and what Python kept from it is not to be used.
"""

import dataclasses

import pytest
import torch

from qbench.quant.layer import QuantLayer
from qbench.quant.trace import ConversionError
from qbench.train import acting, graphs
from qbench.train.errors import ConfigError
from qbench.train.phases import Phases
from tests.bench import workload


class Emulated:
    """What stands in for `graphs.Recording`."""

    num_replays = 0
    modules = ()
    learner = None

    def __init__(self, work, inputs, pool):
        owner = getattr(work.__self__, "_module", None)
        if owner is not None:
            type(self).modules = [*self.modules, *owner.modules()]
        self.work = work
        self.before = python_of(self)
        tensors = tensors_of(self)
        values = [t.detach().clone() for t in tensors]
        work(*[t.clone() for t in inputs])
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for module, _, cached in self.before[0]:
            kept = getattr(module, "_cached", None)
            if kept is not None and kept is not cached:
                module._cached = spoiled(*kept)

    def __call__(self, inputs):
        Emulated.num_replays += 1
        now = python_of(self)
        put_back(self, self.before)
        outputs = self.work(*[t.clone() for t in inputs])
        put_back(self, now)
        return outputs


def python_of(emulated):
    modules = [(m, m.training, getattr(m, "_cached", None)) for m in emulated.modules]
    counts = {k: v for k, v in vars(emulated.learner).items() if isinstance(v, bool | int)}
    return modules, counts


def put_back(emulated, state):
    modules, counts = state
    for module, is_training, cached in modules:
        module.training = is_training
        if isinstance(module, QuantLayer):
            module._cached = cached
    vars(emulated.learner).update(counts)


def tensors_of(emulated):
    networks = {*emulated.modules}
    tensors = [t for m in networks for t in [*m.parameters(False), *m.buffers(False)]]
    for optimizer in emulated.learner.optimizers():
        adam = optimizer.adam.state[optimizer.flat]
        tensors += [optimizer.flat, optimizer.grad, *optimizer.moments(), adam["step"]]
    return [t.data for t in [*tensors, emulated.learner.alive]]


def spoiled(grid, codes):
    """What lies in a graph's memory before its first replay."""

    def nan(tensor):
        return torch.full_like(tensor, float("nan"))

    fields = ("scale", "inverse", "zero", "centre")
    grid = grid._replace(**{name: nan(getattr(grid, name)) for name in fields})
    return grid, type(codes)(*map(nan, codes))


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(graphs, "Recording", Emulated)
    monkeypatch.setattr(Emulated, "num_replays", 0)


@pytest.fixture
def no_arrays(monkeypatch):
    def refuse(module):
        raise ConversionError("not on a GPU")

    monkeypatch.setattr(acting, "ArrayNetwork", refuse)


MLP = [*workload.cartpole(2, 2), "network.hidden_sizes=[16,12]"]
DDPG = [*workload.pendulum(2), "network.hidden_sizes=[16,12]"]
SHORT = ["algo.loop.learning_starts=30", "algo.loop.batch_size=8", "replay.capacity=200"]
PHASES = ["quant.schedule.delay_env_steps=60", "quant.schedule.freeze_env_steps=80"]


def trained(overrides, *, is_recorded):
    """Everything that a training leaves and that evaluations along it see."""
    parts = workload.build_parts([*overrides, *SHORT])
    learner, scheme = parts.learner, parts.scheme
    parts.collector.policy = acting.behaviour_policy(
        learner,
        parts.spec,
        acting=getattr(scheme, "acting", "fake"),
        refresh_updates=getattr(scheme, "acting_refresh_updates", 1),
        recorded_phases=parts.phases if is_recorded else None,
    )
    networks = [*learner.trained().values(), *learner.targets().values()]
    if is_recorded:
        Emulated.learner = learner
        Emulated.modules = [module for network in networks for module in network.modules()]
        update = graphs.RecordedUpdates(learner, parts.phases)
        parts = dataclasses.replace(parts, update=update)
    advance = workload.runner(parts)
    results = []
    for _ in range(4):
        advance(25)
        learner.act(torch.from_numpy(parts.collector._obs).unsqueeze(1))
        results += [codes(layer) for layer in learner.network.modules()]
    results += [t for network in networks for t in network.state_dict().values()]
    return results + [torch.from_numpy(a) for a in parts.replay.arrays().values()]


def codes(layer):
    """What a quantized layer has just computed with."""
    if not isinstance(layer, QuantLayer) or not layer.is_quantizing:
        return torch.zeros(())
    return layer._cached[1].weight.clone()


@pytest.mark.parametrize(
    "overrides",
    [
        [*MLP, "algo.learner.double=true", "quant=qat8", *PHASES],
        [*MLP, "quant=qat8", "algo.loop.gradient_steps=2"],
        [*MLP, "quant=qat8", "quant.acting_refresh_updates=3"],
        [*MLP, "quant=qat8", "algo.loop.target_dtype=int8"],
        [*DDPG, "quant=qat8", "quant.scope=all", "algo.learner.policy_frequency=3"],
    ],
    ids=["phases", "gradient-steps", "refreshed", "int8-target", "ddpg"],
)
def test_recorded_trainings_are_plain_ones(overrides, emulated, no_arrays):
    plain = trained(overrides, is_recorded=False)
    assert Emulated.num_replays == 0
    recorded = trained(overrides, is_recorded=True)
    assert Emulated.num_replays > 20
    for known, found in zip(plain, recorded, strict=True):
        assert torch.equal(known, found)


def test_a_cpu_records_nothing():
    # Which a trainer that was told to be on a GPU, and then not, may ask for.
    parts = workload.build_parts([*MLP, *SHORT, "trainer=gpu", "trainer.accelerator=cpu"])
    assert parts.update == parts.learner.update


class Scheme:
    """Its networks change at env step 5."""

    def advance(self, network, env_step, *, is_target):
        pass

    def next_change(self, env_step):
        return 5 if env_step < 5 else float("inf")


class Learner:
    def trained(self):
        return {}

    targets = trained


def test_calls_of_one_kind_are_recorded_after_some_and_anew_in_another_phase(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(graphs, "Recording", lambda work, inputs, pool: lambda given: "replayed")
    phases, drops = Phases(Scheme(), Learner()), []
    calls = graphs.Recordings(lambda x: "plain", phases, lambda: drops.append(None))
    phases(0)
    inputs = [torch.zeros(1)]
    seen = [calls("kind", inputs) for _ in range(5)]
    assert seen == [("plain", True)] * 3 + [("replayed", True), ("replayed", False)]
    assert len(drops) == 2
    assert calls("another", inputs) == ("plain", True)
    phases(3)
    assert calls("kind", inputs) == ("replayed", False)
    phases(5)
    assert calls("kind", inputs) == ("plain", True)


class Capture:
    """What `torch.cuda.graph` is when what is recorded goes wrong: its end raises as well."""

    def __init__(self, graph, pool):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def broken(message):
    def work(x):
        raise RuntimeError(message)

    return work


def test_what_cannot_be_recorded_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    cause = "operation not permitted when stream is capturing\nmore"
    with pytest.raises(ConfigError, match=r"add trainer\.cuda_graphs=false") as refusal:
        graphs.Recording(broken(cause), [torch.zeros(1)], None)
    assert str(refusal.value).endswith("(operation not permitted when stream is capturing)")


def test_another_error_stays_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(Capture, "__exit__", lambda self, *error: None)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        graphs.Recording(broken("shapes do not match"), [torch.zeros(1)], None)


class Replayed:
    def replay(self):
        pass


def test_a_replay_takes_inputs_of_the_recorded_shape_and_dtype_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(Capture, "__exit__", lambda self, *error: None)
    recording = graphs.Recording(lambda x: x, [torch.zeros(2, 3)], None)
    assert recording([torch.ones(2, 3)]).tolist() == [[1.0] * 3] * 2
    for wrong in (torch.ones(3), torch.ones(2, 3, dtype=torch.int64)):
        with pytest.raises(RuntimeError):
            recording([wrong])
