import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qbench import layers, product
from qbench.quant import fake

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def by_numpy(one_thread, monkeypatch):
    """NumPy multiplies, whatever this CPU is."""
    monkeypatch.setattr(product, "IS_WIDER", True)
    products = []
    multiply = np.matmul
    monkeypatch.setattr(np, "matmul", lambda *a, **k: products.append(1) or multiply(*a, **k))
    return products


def strided(num_seeds, rows, columns):
    """Matrices as they lie in the flat storage of several layers."""
    return normal(num_seeds, 3 * rows * columns)[:, 7 : 7 + rows * columns].unflatten(
        1, (rows, columns)
    )


PAIRS = {
    "dense": lambda: (normal(3, 32, 5), normal(3, 5, 4)),
    "a turned weight": lambda: (normal(3, 32, 5), strided(3, 4, 5).mT),
    "a turned gradient": lambda: (normal(3, 32, 20).mT, normal(3, 32, 6)),
    "rows apart": lambda: (normal(3, 32, 10)[..., ::2], normal(3, 5, 4)),
    "one value": lambda: (torch.ones(()).expand(3, 32, 5), normal(3, 5, 4)),
    "one row of all": lambda: (normal(3, 1, 5).expand(3, 32, 5), normal(3, 5, 4)),
    "one seed": lambda: (normal(1, 32, 5), normal(1, 5, 1)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_products_are_exact_to_rounding(by_numpy, pair):
    a, b = pair()
    found = product.product(a, b)
    assert by_numpy
    assert (found.double() - a.double() @ b.double()).abs().max() < 1e-5


def test_an_affine_layer_by_hand(by_numpy):
    x = torch.tensor([[[1.0, 2.0]]]).repeat(1, 16, 1)
    weight = torch.tensor([[[3.0, 4.0], [5.0, 6.0]]], requires_grad=True)
    bias = torch.tensor([[10.0, 20.0]], requires_grad=True)
    y = layers.affine(x, weight, bias)
    (y * torch.tensor([1.0, -1.0])).sum().backward()
    assert by_numpy  # the weight's gradient has too few rows
    assert y[0, 0].tolist() == [21.0, 37.0]
    assert weight.grad.tolist() == [[[16.0, 32.0], [-16.0, -32.0]]]
    assert bias.grad.tolist() == [[16.0, -16.0]]


def test_gradients_are_those_of_autograd(by_numpy):
    leaves = [t.requires_grad_() for t in (normal(2, 64, 7), strided(2, 19, 7), normal(2, 19))]
    aim = normal(2, 64, 19)
    found = torch.autograd.grad((layers.affine(*leaves).relu() * aim).sum(), leaves)
    x, weight, bias = leaves
    plain = torch.stack([F.linear(x[s], weight[s], bias[s]) for s in range(2)])
    expected = torch.autograd.grad((plain.relu() * aim).sum(), leaves)
    assert len(by_numpy) == 3
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_product_is_spent_on_what_needs_no_gradient(by_numpy):
    x, weight, bias = normal(2, 64, 7).requires_grad_(), normal(2, 9, 7), normal(2, 9)
    layers.affine(x, weight, bias).sum().backward()
    assert len(by_numpy) == 2  # the output's and the input's


def test_a_seed_has_the_same_bits_whatever_the_others(by_numpy):
    x, weight, bias = normal(4, 128, 84), normal(4, 120, 84), normal(4, 120)

    def gradients(seeds):
        leaves = [t[seeds].clone().requires_grad_() for t in (x, weight, bias)]
        return torch.autograd.grad(layers.affine(*leaves).square().sum(), leaves)

    for alone, among in zip(gradients(slice(2, 3)), gradients(slice(0, 4)), strict=True):
        assert torch.equal(alone[0], among[2])


def test_fake_quantization_has_the_same_bits_by_both(by_numpy, monkeypatch):
    x, weight, bias = normal(3, 64, 20), normal(3, 30, 20), normal(3, 30)
    low, high = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 2.0)
    grid = fake.zero_point_grid(low, high, 8)
    codes = fake.encode_layer(weight, bias, grid, bits=8, per_channel=True, weight_range="max")
    centred = fake.encode(x, grid) - grid.centre
    found = fake.accumulate(centred, codes)
    assert by_numpy
    monkeypatch.setattr(product, "IS_WIDER", False)
    assert torch.equal(found, fake.accumulate(centred, codes))


def test_everything_else_is_left_to_torch(by_numpy):
    assert product.is_by_numpy(normal(2, 16, 3))
    assert not product.is_by_numpy(normal(2, 15, 3))
    assert not product.is_by_numpy(normal(2, 16, 3).double())
    assert not product.is_by_numpy(torch.empty(2, 16, 3, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not product.is_by_numpy(normal(2, 16, 3))
    torch.set_num_threads(2)
    assert not product.is_by_numpy(normal(2, 16, 3))


@pytest.mark.parametrize(
    ("vendor", "architecture", "is_wider"),
    [
        ("AuthenticAMD", "SkylakeX", True),
        ("AuthenticAMD", "Haswell", False),  # of 256 bits, as MKL's
        ("GenuineIntel", "SkylakeX", False),  # where MKL's have 512 too
    ],
)
def test_numpy_multiplies_where_its_vectors_are_wider(
    tmp_path, monkeypatch, vendor, architecture, is_wider
):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\n")
    library = {"filepath": "/site-packages/numpy.libs/libopenblas.so", "internal_api": "openblas"}
    others = {"filepath": "/lib/libgomp.so", "internal_api": "openmp"}
    monkeypatch.setattr(product, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(
        product, "threadpool_info", lambda: [others, library | {"architecture": architecture}]
    )
    assert product.openblas_is_wider() is is_wider


def test_without_openblas_or_cpuinfo_torch_multiplies(tmp_path, monkeypatch):
    monkeypatch.setattr(product, "threadpool_info", list)
    assert not product.openblas_is_wider()
    monkeypatch.setattr(product, "CPU_INFO", tmp_path / "nothing")
    assert not product.openblas_is_wider()
