"""Compiled loops: the bits of torch's operators, wherever they are taken."""

import logging
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from qbench import layers
from qbench.quant import fake, grids, kernels
from qbench.quant.layer import LayerSpec, QuantLayer
from qbench.train import provenance
from qbench.train.arrays import ArrayNetwork
from tests.algo.test_dqn import random_batch
from tests.quant.test_learned import LEARNED
from tests.quant.test_qat import learner_of, scheme
from tests.toys import q_population

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc"),
    pytest.mark.usefixtures("one_thread"),
]

SPEC = LayerSpec(
    weight_bits=8, input_bits=8, per_channel=True, weight_range="max", per_feature=False,
    range="moving_average", percentile=99.9, grid="zero_point",
)  # fmt: skip
SPECS = {
    "8": {},
    "4 per tensor": {"weight_bits": 4, "input_bits": 4, "per_channel": False},
    "1 of the input": {"input_bits": 1, "range": "min_max"},
    "per feature": {"per_feature": True, "range": "min_max"},
    "per feature, average": {"per_feature": True},
    "affine": {"grid": "affine", "per_channel": False},
    "affine per feature": {"grid": "affine", "per_feature": True},
    "unit": {"range": "unit"},
    "mse": {"weight_range": "mse", "per_channel": False},
    "percentile": {"range": "percentile"},
}
LARGE = 3e38
MSE = {"weight_range": "mse", "granularity": "tensor"}


@pytest.fixture
def by_torch(monkeypatch):
    """What a function returns without the loops."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "library", lambda: None)
            return function(*args)

    return call


@pytest.fixture
def calls(monkeypatch):
    """Names of the loops that ran."""
    called = set()

    class Counted:
        def __getattr__(self, name):
            called.add(name)
            return getattr(loaded, name)

    loaded = kernels.library()
    monkeypatch.setattr(kernels, "library", Counted)
    return called


def layer_of(spec, *, num_seeds=3, out=7, size=19, kernel=None, strided=True):
    """A quantized layer, whose parameters are views of one tensor as an optimizer leaves them."""
    generator = torch.Generator().manual_seed(0)
    shape = (out, size) if kernel is None else (out, size, kernel, kernel)
    weight = torch.randn(num_seeds, *shape, generator=generator)
    weight[:, 2] = 0.0  # a dead channel, whose bias sets its scale
    bias = torch.randn(num_seeds, out, generator=generator)
    parameters = nn.Parameter(weight), nn.Parameter(bias)
    plain = layers.Linear(*parameters) if kernel is None else layers.Conv2d(*parameters, (2, 2))
    layer = QuantLayer(plain, LayerSpec(**{**vars(SPEC), **spec}))
    layers.flatten_parameters(layer, 8)
    return layer


def inputs(layer, count=33, scale=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    num_seeds, _, *rest = layer.weight.shape
    image = () if layer.stride is None else (9, 9)
    return scale * torch.randn(num_seeds, count, rest[0], *image, generator=generator)


def learned(layer, *batches):
    """Outputs and gradients of every batch, the codes and the range: all that a layer makes."""
    made = []
    for x in batches:
        x = x.clone().requires_grad_()
        y = layer.train()(x)
        grads = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
        grid, codes = layer.codes()
        with torch.no_grad():
            inferred = layer.eval()(x)
        made += [y.detach(), *grads, *grid.tensors, *codes, layer.input_range.clone(), inferred]
    return made


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.nan_to_num(0.0), other.nan_to_num(0.0))


@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS)
def test_a_layer_learns_bit_for_bit_as_by_torch(changes, by_torch, calls):
    layer, plain = layer_of(changes), layer_of(changes)
    batches = [inputs(layer, scale=scale) for scale in (1.0, 3.0, 0.1)]
    found = learned(layer, *batches)
    assert {"encode_int16", "decode_int16", "mask", "encode"} <= calls
    assert ("encode_layer" in calls) == (layer.spec.weight_range == "max")
    assert ("finish" in calls) == (layer.spec.weight_range == "max" or layer.spec.per_channel)
    assert ("observe" in calls) == (layer.spec.range in ("min_max", "moving_average"))
    assert_same(found, by_torch(learned, plain, *batches))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_so_does_a_convolution_in_either_order_of_memory(order, num_seeds, by_torch, calls):
    layers_ = [layer_of({}, num_seeds=num_seeds, size=16, kernel=3) for _ in range(2)]
    x = inputs(layers_[0], count=5)
    x = x.flatten(0, 1).contiguous(memory_format=order).unflatten(0, x.shape[:2])
    found = learned(layers_[0], x)
    assert {"encode_layer", "encode_int16", "decode_int16", "observe"} <= calls
    expected = by_torch(learned, layers_[1], x)
    assert_same(found[:1] + found[3:], expected[:1] + expected[3:])
    for grad, other in zip(found[1:3], expected[1:3], strict=True):  # the order of oneDNN's sums
        torch.testing.assert_close(grad, other, rtol=1e-5, atol=1e-4)


def test_bytes_keep_their_codes_in_a_byte(by_torch, calls):
    layer, plain = layer_of({}), layer_of({})
    x = inputs(layer)

    def weight_gradient(of):
        return torch.autograd.grad(of.train()(x).square().sum(), [of.weight, of.bias])

    found = weight_gradient(layer)
    assert {"encode_uint8", "decode_uint8"} <= calls
    assert_same(found, by_torch(weight_gradient, plain))


SPECIALS = [float("nan"), float("inf"), -float("inf"), LARGE]


@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("special", SPECIALS)
def test_what_is_no_number_moves_no_range_and_stays_none(special, per_feature, by_torch):
    layer, plain = layer_of({"per_feature": per_feature}), layer_of({"per_feature": per_feature})
    first, broken = inputs(layer), inputs(layer, seed=2)
    broken[1, 4, 3] = broken[1, 5, 3] = special
    for of, call in ((layer, lambda f, *a: f(*a)), (plain, by_torch)):
        call(of._observe, first)
        call(of._observe, broken)
    assert torch.equal(layer.input_range, plain.input_range)
    encoded = [call(of._encode) for of, call in ((layer, lambda f: f()), (plain, by_torch))]
    centred = kernels.encode(broken, encoded[0][0])
    assert_same([centred], [by_torch(fake.centred_codes, broken, encoded[1][0])])


@pytest.mark.parametrize("special", [*SPECIALS, 1e-45])
@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_that_are_no_numbers_give_the_same_codes(special, per_channel, by_torch):
    layer = layer_of({"per_channel": per_channel})
    layer._observe(inputs(layer))
    with torch.no_grad():
        layer.weight[1, 3, 4] = special
        layer.bias[2, 5] = special
    (grid, codes), (plain_grid, plain_codes) = layer._encode(), by_torch(layer._encode)
    assert_same([*grid.tensors, *codes], [*plain_grid.tensors, *plain_codes])


POINTS = [0.0, 3.7, -3.7, 1e-9]


@pytest.mark.parametrize("grid", ["zero_point", "affine"])
@pytest.mark.parametrize("low", POINTS)
@pytest.mark.parametrize("width", [0.0, 2e-4, 1e-3])
def test_a_range_of_nearly_one_value_gives_the_same_grid(grid, low, width, by_torch):
    layer = layer_of({"grid": grid})
    layer.input_range[:, 0], layer.input_range[:, 1] = low, low + width
    assert_same(list(layer._encode()[0][:4]), list(by_torch(layer._encode)[0][:4]))


def test_a_layer_of_zeros_gives_the_same_codes(by_torch):
    layer = layer_of({})
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    codes = layer._encode()[1]
    assert codes.scale.unique().tolist() == pytest.approx([1e-12])
    assert_same(list(codes), list(by_torch(layer._encode)[1]))


def test_an_output_by_hand():
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    codes = grids.Codes(
        torch.tensor([[[2.0, -3.0], [1.0, 1.0]]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.5, 2.0]]),
    )
    x = np.array([[1.2, 2.9]], np.float32)  # codes 1 and 3
    grid = grids.Grid(one, one, zero, zero, 255, True)
    assert kernels.infer(x, grid, codes, has_relu=False).tolist() == [[-3.0, 8.0]]
    assert kernels.infer(x, grid, codes, has_relu=True).tolist() == [[0.0, 8.0]]


def test_a_range_that_has_seen_nothing_gives_the_same_grid(by_torch):
    layer = layer_of({})
    assert layer.input_range.isinf().all()
    assert_same(list(layer._encode()[0][:4]), list(by_torch(layer._encode)[0][:4]))


def test_ties_go_to_the_even_code_and_ends_are_clamped():
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    grid = grids.Grid(one, one, zero, zero, 3, True)
    x = torch.tensor([[[-2.0, -0.5, 0.5, 1.5, 2.5, 3.49, 9.0]]])
    kept = torch.empty_like(x, dtype=torch.int16)
    assert kernels.encode(x, grid, kept).tolist() == [[[0, 0, 0, 2, 2, 3, 3]]]
    assert kept.tolist() == [[[-1, 0, 0, 2, 2, 3, 4]]]
    assert kernels.decode(kept, 2 * one, one, 3).tolist() == [[[-2, -2, -2, 2, 2, 4, 4]]]
    grad = torch.full_like(x, 3.0)
    assert kernels.mask(grad, kept, 2 * one, 3).tolist() == [[[0, 1.5, 1.5, 1.5, 1.5, 1.5, 0]]]


def test_ranges_by_hand():
    x = torch.tensor([[[1.0, -2.0], [3.0, 5.0]]])
    unseen = torch.tensor([[[torch.inf] * 2, [-torch.inf] * 2]])
    extremes, average = unseen.clone(), unseen.clone()
    for batch in (x, 2 * x):
        kernels.observe(batch, extremes, is_average=False, momentum=0.0)
        kernels.observe(batch, average, is_average=True, momentum=0.5)
    assert extremes.tolist() == [[[1.0, -4.0], [6.0, 10.0]]]
    assert average.tolist() == [[[1.5, -3.0], [4.5, 7.5]]]


@pytest.mark.parametrize(
    "changes",
    [{}, {"bits": 4, "granularity": "tensor"}, {"grid": "affine"}, {"bits": 1}, LEARNED, MSE],
    ids=["8", "4", "affine", "1", "learned", "mse"],
)
def test_a_training_has_the_same_bits_with_the_loops_and_without(changes, by_torch):
    def trained():
        learner = learner_of(scheme(**changes).prepare(q_population([0, 1, 2])), learning_rate=0.02)
        for i in range(6):
            learner.update(random_batch(3, first_seed=i))
            learner.sync_target(0.1)
        acted = ArrayNetwork(learner.network)(np.full((3, 4), 0.3, np.float32))
        return [*learner.network.state_dict().values(), torch.from_numpy(acted)]

    assert_same(trained(), by_torch(trained))


def test_acting_takes_the_loops(calls):
    learner = learner_of(scheme().prepare(q_population([0, 1, 2])))
    learner.update(random_batch(3))
    network = ArrayNetwork(learner.network)
    network(np.zeros((3, 4), np.float32))
    assert "infer" in calls
    one_for_all = network(np.ones((1, 4), np.float32))  # of no population: the first layer in NumPy
    assert np.array_equal(one_for_all, network(np.ones((3, 4), np.float32)))


def test_only_hidden_ranges_are_widened():
    hidden, first = layer_of({}), layer_of({"per_feature": True})
    for layer in (hidden, first):
        layer.input_range[:, 0], layer.input_range[:, 1] = -1.0, 1.0
    assert hidden._encode()[0].scale.flatten().tolist() == pytest.approx(
        [(2 + 4 / 4096) / 255] * 3, rel=1e-6
    )
    assert (first._encode()[0].scale == 2 / torch.tensor(255.0)).all()


def test_inputs_that_do_not_fit_their_grid_are_left_to_torch(by_torch, calls):
    layer = layer_of({"per_feature": True, "range": "min_max"})
    layer.train()(inputs(layer))
    layer.eval()
    calls.clear()
    x = inputs(layer)
    with torch.no_grad():
        assert torch.equal(layer(x[:1]), by_torch(layer, x[:1]))
        layer(torch.zeros(3, 5, 19, dtype=torch.uint8))
        with pytest.raises(RuntimeError):
            layer(x[..., :4])
        with pytest.raises(RuntimeError):
            layer(x[:2])
    assert calls <= {"encode_layer", "finish"}


class Doubled(QuantLayer):
    """Sees twice what there is."""

    def _seen(self, x):
        return 2 * super()._seen(x)


def test_a_layer_that_makes_its_range_in_another_way_is_left_to_torch():
    plain = layer_of({})
    doubled = Doubled(plain, plain.spec)
    x = inputs(plain)
    plain.train()(x), doubled.train()(x)
    assert torch.equal(doubled.input_range, 2 * plain.input_range)


def test_floats_that_are_kept_stay_floats():
    layer = layer_of({})
    layer.train()(inputs(layer))
    grid = layer.codes()[0]
    assert fake._centred(inputs(layer), grid, "floats", True)[1].dtype is torch.float32


def test_seeds_that_lie_apart_are_left_to_torch():
    images = torch.zeros(4, 5, 3, 6, 6).flatten(0, 1).to(memory_format=torch.channels_last)
    images = images.unflatten(0, (4, 5))
    assert kernels.take(images) and not kernels.take(images[::2])


def test_a_gradient_in_another_order_than_what_was_kept_is_left_to_torch():
    kept = torch.randint(-1, 5, (2, 4, 6), dtype=torch.int16)
    grad, scale = torch.randn(2, 6, 4).transpose(1, 2), torch.full((2, 1, 1), 0.5)
    expected = torch.where((kept >= 0) & (kept <= 3), 2 * grad, 0.0)
    assert torch.equal(fake._straight_through(grad, kept, scale, 3), expected)
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).unsqueeze(0)
    kept = torch.randint(-1, 5, images.shape, dtype=torch.int16)
    scale = torch.full((1, 1, 1, 1, 1), 0.5)
    expected = torch.where((kept >= 0) & (kept <= 3), 2 * images, 0.0)
    assert torch.equal(fake._straight_through(images, kept, scale, 3), expected)


def test_memory_in_another_order_is_left_to_torch(by_torch):
    layer = layer_of({})
    layer._observe(inputs(layer))
    grid = layer._encode()[0]
    turned = inputs(layer).transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous() and not kernels.take(turned)
    assert torch.equal(fake.centred_codes(turned, grid), kernels.encode(turned.contiguous(), grid))
    assert not kernels.take(torch.zeros(2, dtype=torch.float64))
    assert not kernels.take_strided(layer.weight.mT)
    torch.set_num_threads(2)
    assert not kernels.take(torch.zeros(2))


def test_a_summary_says_whether_the_loops_were_used_and_it_is_one_machine_all_the_same(monkeypatch):
    assert kernels.take(torch.zeros(1))
    used = provenance.describe()
    monkeypatch.setattr(kernels, "were_used", lambda: False)
    unused = provenance.describe()
    assert (used.pop("used_compiled_loops"), unused.pop("used_compiled_loops")) == (True, False)
    assert used == unused


def test_the_library_is_kept_and_made_anew_when_its_source_changes(tmp_path, monkeypatch):
    source, cache = tmp_path / "kernels.c", tmp_path / "__pycache__"
    source.write_bytes(kernels.SOURCE.read_bytes())
    monkeypatch.setattr(kernels, "SOURCE", source)
    monkeypatch.setattr(kernels, "CACHE", cache)
    kernels._load()
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    kernels._load()
    assert kept.stat().st_mtime_ns == stamp
    source.write_text(source.read_text() + "\n")
    kernels._load()
    assert len(list(cache.iterdir())) == 2


def test_a_library_is_kept_for_its_flags_and_its_processor(tmp_path, monkeypatch):
    prints = [kernels._fingerprint()]
    monkeypatch.setattr(kernels, "FLAGS", kernels.FLAGS[1:])
    prints.append(kernels._fingerprint())
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(kernels, "CPU_INFO", cpu)
    for flags in ("sse", "sse avx"):
        cpu.write_text(f"model name\t: x\nflags\t: {flags}\ncpu MHz : {flags}\n")
        prints.append(kernels._fingerprint())
    assert len(set(prints)) == 4
    cpu.write_text("model name\t: x\nflags\t: sse avx\ncpu MHz : 2\n")
    assert kernels._fingerprint() == prints[-1]


def test_a_broken_library_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "CACHE", tmp_path)
    broken = tmp_path / f"kernels-{kernels._fingerprint()}.so"
    broken.write_bytes(b"")
    assert kernels._load().encode
    assert broken.stat().st_size > 0 and list(tmp_path.iterdir()) == [broken]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kernels, "CACHE", tmp_path / "file")
    assert kernels._load().encode


@pytest.mark.parametrize("broken", [True, False])
def test_without_a_compiler_there_is_a_warning_and_torch(broken, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(kernels, "CACHE", tmp_path / "__pycache__")
    if broken:
        monkeypatch.setattr(kernels, "FLAGS", ["-no-such-flag"])
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernels, "library", kernels.library.__wrapped__)
    with caplog.at_level(logging.WARNING):
        assert kernels.library() is None
    assert not kernels.take(torch.zeros(1))
    assert len({record.message for record in caplog.records}) == 1
    (record, *_) = caplog.records
    assert ("no-such-flag" if broken else "there is no gcc") in record.message
