"""Quantized convolutions: against linear layers on patches, against int64, byte for byte."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qbench import layers
from qbench.deploy import npz
from qbench.network.cnn import CNN
from qbench.network.heads import Actor, QNetwork
from qbench.quant import agreement, fake, grids
from qbench.quant.integer import IntegerLayer, IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.quant.none import NoQuant
from qbench.quant.trace import ConversionError
from qbench.types import EnvSpec
from tests.quant.test_qat import scheme
from tests.toys import mlp

ATARI = EnvSpec(id="atari", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6)
PLANES = EnvSpec(id="planes", obs_shape=(4, 10, 10), obs_high=1, num_actions=3)
SHAPES = {
    "atari": (ATARI, {"channels": [16, 32], "kernel_sizes": [8, 4], "strides": [4, 2]}),
    "planes": (PLANES, {"channels": [16], "kernel_sizes": [3], "strides": [1]}),
}


def population(name, num_seeds=1, hidden_size=64):
    spec, convolutions = SHAPES[name]

    def make():
        torso = lambda shape: CNN(obs_shape=shape, hidden_size=hidden_size, **convolutions)  # noqa: E731
        return QNetwork(make_torso=torso, spec=spec)

    return layers.populate(make, range(num_seeds))


def images(name, num_seeds, count, seed=0):
    spec, _ = SHAPES[name]
    rng = np.random.default_rng(seed)
    # Smooth pictures, like games: blocks of one value, not noise that averages out.
    height = spec.obs_shape[1]
    block = max(height // 10, 1)
    small = rng.integers(spec.obs_high + 1, size=(num_seeds, count, 4, 11, 11), dtype=np.uint8)
    large = small.repeat(block, axis=-1).repeat(block, axis=-2)
    return large[..., :height, :height].copy()


def prepared(name, bits=8, num_seeds=1, **changes):
    """A prepared population whose ranges have seen images."""
    module = scheme(bits, **changes).prepare(population(name, num_seeds)).train()
    for i in range(3):
        module(torch.from_numpy(images(name, num_seeds, 16, seed=i)))
    return module.eval()


def random_layer(grid_name, bits=4):
    """Inputs, weights and codes of a convolution of two seeds, 3 channels to 5, 4x3 kernel."""
    g = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(2, 6, 3, 9, 8, generator=g)
    weight = torch.randn(2, 5, 3, 4, 3, generator=g)
    bias = torch.randn(2, 5, generator=g)
    bounds = torch.tensor([[-2.0, 4.0], [-1.0, 3.0]])
    low, high = (b.view(2, 1, 1, 1, 1) for b in bounds.T)
    grid = grids.GRIDS[grid_name](low, high, bits)
    return (
        x,
        weight,
        bias,
        grid,
        fake.encode_layer(weight, bias, grid, bits=bits, per_channel=True, weight_range="max"),
    )


def patches(x, stride):
    """[S, B, C, H, W] -> [S, B * H' * W', C * kh * kw] for a 4x3 kernel."""
    cut = [F.unfold(one, (4, 3), stride=stride).transpose(1, 2) for one in x]
    return torch.stack([c.reshape(-1, c.shape[-1]) for c in cut])


@pytest.mark.parametrize("grid_name", ["zero_point", "affine"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_a_convolution_is_the_linear_layer_on_its_patches(grid_name, stride):
    x, weight, bias, grid, codes = random_layer(grid_name)
    x.requires_grad_(True), weight.requires_grad_(True), bias.requires_grad_(True)
    out = fake.apply(x, weight, bias, grid, codes, stride)  # [S, B, out, H', W']
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(out, [x, weight, bias], up)

    flat = grids.Grid(*(t.view(2, 1, 1) for t in grid[:4]), *grid[4:])
    flat_codes = grids.Codes(codes.weight.flatten(2), codes.bias, codes.scale)
    rows = patches(x, stride)
    product = fake.apply(rows, weight.flatten(2), bias, flat, flat_codes, None)
    as_image = product.view(2, 6, *out.shape[3:], 5).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(out, as_image)
    expected = torch.autograd.grad(as_image, [x, weight, bias], up)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_what_backward_of_a_convolution_keeps_changes_no_bit(num_threads, one_thread):
    torch.set_num_threads(num_threads)
    x, weight, bias, grid, codes = random_layer("zero_point")
    leaves = [t.requires_grad_() for t in (2 * x, weight, bias)]
    found = []
    for saved in ("codes", "floats"):
        out = fake.apply(*leaves, grid, codes, (1, 1), saved)
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    assert (found[0][0] == 0).any()  # of clamped inputs
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_inputs_outside_the_range_receive_no_gradient():
    x, weight, bias, grid, codes = random_layer("zero_point")
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(fake.apply(x, weight, bias, grid, codes, (1, 1)).sum(), x)
    outside = (x[0] < -2.2) | (x[0] > 4.2)
    assert outside.any() and (grad[0][outside] == 0).all() and (grad[0][~outside] != 0).any()


@pytest.mark.parametrize(("name", "high"), [("atari", 255), ("planes", 1)])
def test_the_first_convolution_takes_the_bytes_as_they_are(name, high):
    module = prepared(name)
    network = scheme().convert(layers.take_seed(module, 0))
    obs = images(name, 1, 5, seed=9)[0]
    codes = network.trace(obs)[0]
    assert np.array_equal(codes, obs.astype(np.float32) * (255 // high))
    first = next(m for m in module.modules() if isinstance(m, QuantLayer))
    assert first.input_range.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", ["atari", "planes"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_tensor_is_quantized_and_holds_at_most_two_to_the_bits_levels(name, bits):
    module = prepared(name, bits, num_seeds=2)
    found = [m for m in module.modules() if isinstance(m, layers.Seeded)]
    assert len(found) == len(SHAPES[name][1]["channels"]) + 2
    inputs = {}
    for i, layer in enumerate(found):
        assert isinstance(layer, QuantLayer)
        layer.register_forward_pre_hook(lambda m, x, i=i: inputs.setdefault(i, x[0]))
    module(torch.from_numpy(images(name, 2, 8, seed=4)))
    for i, layer in enumerate(found):
        grid, codes = layer.codes()
        per_channel = codes.weight.flatten(2).abs().amax(-1)
        assert (per_channel == 2 ** (bits - 1) - 1).all()
        assert torch.equal(codes.weight, codes.weight.round())
        assert grids.encode(inputs[i], grid).unique().numel() <= 2 ** (8 if i == 0 else bits)


@pytest.mark.parametrize("name", ["atari", "planes"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("grid", ["zero_point", "affine"])
def test_integers_agree_with_fake_quantization(name, bits, grid):
    module = prepared(name, bits, grid=grid)
    single = layers.take_seed(module, 0)
    network = scheme(bits, grid=grid).convert(single)
    found = agreement.measure(single, network, images(name, 1, 600, seed=7)[0])
    assert found.rows == 600
    assert found.holds, found


def test_an_actors_integers_agree_before_its_float_tanh():
    spec = EnvSpec(id="box", obs_shape=(5,), action_low=(-2.0, -1.0), action_high=(2.0, 3.0))
    actors = layers.populate(lambda: Actor(make_torso=mlp([64, 48]), spec=spec), [0])
    module = scheme().prepare(actors).train()
    obs = torch.randn(1, 3000, 5, generator=torch.Generator().manual_seed(0))
    for part in obs.split(300, dim=1):
        module(part)
    single = layers.take_seed(module.eval(), 0)
    network = scheme().convert(single)
    found = agreement.measure(single, network, obs[0].numpy())
    assert found.holds and found.differing_argmax == 0
    actions = network(obs[0].numpy())
    assert actions.min(0).tolist() >= [-2.0, -1.0] and actions.max(0).tolist() <= [2.0, 3.0]
    inner = (network.layers[-1].accumulate(network.trace(obs[0].numpy())[-2])).astype(np.float32)
    expected = np.tanh(inner * network.output_scale) * [2.0, 2.0] + [0.0, 1.0]
    np.testing.assert_allclose(actions, expected, rtol=1e-6)


@pytest.mark.parametrize("largest", [3, 127])
def test_sums_are_exact_in_the_float_type_that_carries_them(largest):
    rng = np.random.default_rng(0)
    weight = rng.integers(-largest, largest + 1, size=(7, 64, 8, 8)).astype(np.int8)
    layer = IntegerLayer(weight=weight, bias=np.full(7, 2**20, np.int32), bits=8, stride=(2, 2))
    carrier = np.float32 if largest == 3 else np.float64
    assert layer._carried.dtype == carrier
    codes = rng.integers(256, size=(3, 64, 20, 20))
    sums = layer.accumulate(codes.astype(np.float32))
    i, j = 5, 3
    window = codes[:, :, 2 * i : 2 * i + 8, 2 * j : 2 * j + 8]
    expected = np.einsum("bchw,ochw->bo", window, weight.astype(np.int64)) + 2**20
    assert sums.shape == (3, 7, 7, 7)
    assert np.array_equal(sums[:, :, i, j].astype(np.int64), expected)


@pytest.mark.parametrize("bits", [8, 3])
def test_stored_networks_come_back_as_they_were(tmp_path, bits):
    obs = images("atari", 1, 300, seed=3)[0]
    network = scheme(bits).convert(layers.take_seed(prepared("atari", bits), 0))
    sizes = npz.save(tmp_path / "policy.npz", network)
    again = npz.load(tmp_path / "policy.npz")
    assert isinstance(again, IntegerNetwork)
    assert again.layers[0].stride == (4, 4) and again.layers[-1].stride is None
    assert np.array_equal(again(obs), network(obs))
    num_weights = 16 * 4 * 64 + 32 * 16 * 16 + 64 * 2592 + 6 * 64
    assert sizes.weights == num_weights * (1 if bits == 8 else 0.5)


def test_a_float_cnn_computes_in_numpy_what_it_does_in_torch(tmp_path):
    single = layers.take_seed(population("atari", 2), 1)
    network = NoQuant().convert(single)
    npz.save(tmp_path / "policy.npz", network)
    obs = images("atari", 1, 260, seed=3)[0]
    with torch.no_grad():
        expected = single(torch.from_numpy(obs)).numpy()
    np.testing.assert_allclose(npz.load(tmp_path / "policy.npz")(obs), expected, atol=1e-5)


class Tailed(nn.Module):
    """A ReLU after the tanh that must be last."""

    def __init__(self):
        super().__init__()
        self.layer, self.box, self.relu = nn.Linear(4, 2), layers.TanhToBox([0], [1]), nn.ReLU()

    def forward(self, obs):
        return self.relu(self.box(self.layer(obs)))


def test_nothing_may_follow_the_tanh():
    with pytest.raises(ConversionError, match="cannot take the operation ReLU"):
        scheme().convert(scheme().prepare(layers.populate(Tailed, [0])))


def test_padding_has_no_seeded_form():
    with pytest.raises(TypeError, match="Conv2d with padding"):
        layers.populate(lambda: nn.Conv2d(1, 1, 3, padding=1), [0])


def test_a_population_of_cnns_computes_what_its_members_compute():
    both = population("planes", 2)
    obs = torch.from_numpy(images("planes", 2, 6))
    for k in range(2):
        torch.testing.assert_close(layers.take_seed(both, k)(obs[k]), both(obs)[k])
