"""Laws of training on a GPU. Skipped where there is none."""

import numpy as np
import pytest
import torch

from tests.bench import workload

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MLP = [*workload.cartpole(3, 2), "network.hidden_sizes=[32,24]"]
DDPG = [*workload.pendulum(3), "network.hidden_sizes=[32,24]"]
CNN = workload.pong(2, 200)
SHORT = ["algo.loop.learning_starts=40", "algo.loop.batch_size=16", "replay.capacity=200"]


def parts_of(overrides, device):
    return workload.build_parts([*overrides, *SHORT, f"trainer={device}"])


def gradients(overrides, device):
    parts = parts_of(overrides, device)
    parts.collector.collect(40)
    (batch,) = parts.sampler.sample(1)
    return [
        gradient.cpu()
        for (network, loss) in zip(
            parts.learner.trained().values(), parts.learner.losses(batch), strict=False
        )
        for gradient in torch.autograd.grad(loss.sum(), list(network.parameters()))
    ]


@pytest.mark.parametrize("overrides", [MLP, CNN], ids=["mlp", "cnn"])
def test_gradients_are_those_of_a_cpu(overrides):
    for ours, reference in zip(
        gradients(overrides, "gpu"), gradients(overrides, "cpu"), strict=True
    ):
        assert (ours - reference).norm() <= 1e-5 * reference.norm()


def test_a_gpu_gathers_what_main_memory_holds():
    parts = parts_of(MLP, "gpu")
    on_cpu = parts_of(MLP, "cpu")
    for each in (parts, on_cpu):
        each.collector.collect(230)  # past the capacity of 200
    index = np.random.default_rng(0).integers(200, size=(2, 3, 50))
    again = parts_of(MLP, "gpu").replay
    again.load_state(parts.replay.state())
    for name, array in again.arrays().items():
        array[:] = parts.replay.arrays()[name]
    for replay in (parts.replay, again):
        for ours, reference in zip(replay.gather(index), on_cpu.replay.gather(index), strict=True):
            assert ours.is_cuda
            assert torch.equal(ours.cpu(), reference)


PHASES = ["quant.schedule.delay_env_steps=70", "quant.schedule.freeze_env_steps=90"]


@pytest.mark.parametrize(
    "overrides",
    [
        [*MLP, "algo.loop.learning_rate_left=0.1"],
        [*MLP, "algo.learner.double=true", "quant=qat8", *PHASES],
        [*MLP, "quant=qat4", "quant.activations.range=percentile", "algo.loop.gradient_steps=2"],
        [*MLP, "quant=lsq4"],
        [*MLP, "quant=paper8", "quant.acting=float"],
        [*MLP, "quant=qat8", "algo.loop.target_dtype=int8"],
        [*DDPG, "quant=qat8", "quant.scope=all", "algo.learner.policy_frequency=3"],
        CNN,
        [*CNN, "quant=qat8"],
    ],
    ids=lambda overrides: "-".join(overrides[-2:]),
)
def test_recorded_updates_and_actions_give_the_same_bits(overrides):
    results = []
    for is_recorded in (False, True):
        parts = parts_of([*overrides, f"trainer.cuda_graphs={is_recorded}"], "gpu")
        advance = workload.runner(parts)
        for _ in range(4):
            advance(30)
            obs = torch.from_numpy(parts.collector._obs).unsqueeze(1).cuda()
            results.append(parts.learner.act(obs).cpu())  # as an evaluation does
        networks = {**parts.learner.trained(), **parts.learner.targets()}
        results.append([t.cpu() for n in networks.values() for t in n.state_dict().values()])
        results.append([torch.from_numpy(a.copy()) for a in parts.replay.arrays().values()])
        if is_recorded:
            assert parts.update.calls.recordings
            assert recorded_outputs(parts.collector.policy).calls.recordings
    half = len(results) // 2
    for plain, recorded in zip(results[:half], results[half:], strict=True):
        for a, b in zip(plain, recorded, strict=True):
            assert torch.equal(a, b)


def recorded_outputs(policy):
    """The policy's network, its own or that of a copy."""
    return getattr(policy, "_outputs", None) or policy._network._outputs
