import pytest
import torch
from torch.nn import functional as F

from qbench import layers, product
from qbench.quant import fake, grids
from qbench.train import provenance

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


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
    assert len(by_numpy) == 1  # the weight's gradient, of two rows, is torch's
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


@pytest.mark.parametrize("out", [120, 2])
def test_a_seed_has_the_same_bits_whatever_the_others(by_numpy, out):
    x, weight, bias = normal(4, 128, 84), normal(4, out, 84), normal(4, out)

    def gradients(seeds):
        leaves = [t[seeds].clone().requires_grad_() for t in (x, weight, bias)]
        return torch.autograd.grad(layers.affine(*leaves).square().sum(), leaves)

    for alone, among in zip(gradients(slice(2, 3)), gradients(slice(0, 4)), strict=True):
        assert torch.equal(alone[0], among[2])
    assert by_numpy


def test_a_second_derivative_is_refused(by_numpy):
    x, weight = normal(2, 64, 7), normal(2, 19, 7).requires_grad_()
    y = layers.affine(layers.affine(x, weight, normal(2, 19)), normal(2, 19, 19), normal(2, 19))
    (first,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_pass_without_a_warning(by_numpy):
    x = normal(2, 32, 5)
    x[0, 0, 0] = float("inf")
    found = product.product(x, torch.zeros(2, 5, 4))
    assert by_numpy
    assert found[0, 0].isnan().all()
    assert torch.equal(found[1], torch.zeros(32, 4))


@pytest.fixture
def fake_layer():
    """Inputs, weights and biases of a quantized layer, its grid and its codes."""
    leaves = [t.requires_grad_() for t in (normal(3, 64, 20), normal(3, 30, 20), normal(3, 30))]
    low, high = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 2.0)
    grid = grids.zero_point_grid(low, high, 8)
    _, weight, bias = (leaf.detach() for leaf in leaves)
    codes = fake.encode_layer(weight, bias, grid, bits=8, per_channel=True, weight_range="max")
    return leaves, grid, codes


def test_fake_quantization_has_the_same_bits_by_both(by_numpy, monkeypatch, fake_layer):
    leaves, grid, codes = fake_layer
    found = fake.apply(*leaves, grid, codes, None)
    assert len(by_numpy) == 1
    monkeypatch.setattr(product, "IS_WIDER", False)
    assert torch.equal(found, fake.apply(*leaves, grid, codes, None))


def test_fake_quantization_has_the_gradients_of_torch(by_numpy, monkeypatch, fake_layer):
    leaves, grid, codes = fake_layer

    def gradients():
        return torch.autograd.grad(fake.apply(*leaves, grid, codes, None).square().sum(), leaves)

    found = gradients()
    assert len(by_numpy) == 3
    monkeypatch.setattr(product, "IS_WIDER", False)
    for ours, theirs in zip(found, gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_everything_else_is_left_to_torch(by_numpy):
    assert product.is_by_numpy(normal(2, 16, 3))
    assert not product.is_by_numpy(normal(2, 15, 3))
    assert not product.is_by_numpy(normal(2, 16, 3).double())
    assert not product.is_by_numpy(torch.empty(2, 16, 3, device="meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not product.is_by_numpy(normal(2, 16, 3))
    torch.set_num_threads(2)
    assert not product.is_by_numpy(normal(2, 16, 3))


def library(architecture):
    return {
        "filepath": "/site-packages/numpy.libs/libopenblas.so",
        "internal_api": "openblas",
        "architecture": architecture,
    }


OPENMP = {"filepath": "/lib/libgomp.so", "internal_api": "openmp"}


@pytest.mark.parametrize(
    ("vendor", "libraries", "is_wider"),
    [
        ("AuthenticAMD", [OPENMP, library("SkylakeX")], True),
        ("AuthenticAMD", [OPENMP, library("Haswell")], False),  # of 256 bits, as MKL's
        ("AuthenticAMD", [OPENMP], False),  # NumPy without OpenBLAS
        ("GenuineIntel", [library("SkylakeX")], False),  # where MKL's have 512 too
    ],
)
def test_numpy_multiplies_where_its_vectors_are_wider(
    tmp_path, monkeypatch, vendor, libraries, is_wider
):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(product, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(product, "threadpool_info", lambda: libraries)
    assert product.openblas_is_wider() is is_wider


def test_torch_multiplies_where_the_processor_is_not_told(tmp_path, monkeypatch):
    monkeypatch.setattr(product, "CPU_INFO", tmp_path / "nothing")
    monkeypatch.setattr(product, "threadpool_info", lambda: [library("SkylakeX")])
    assert not product.openblas_is_wider()


def test_a_summary_says_which_library_is_wider(monkeypatch):
    monkeypatch.setattr(product, "IS_WIDER", True)
    assert provenance.describe()["machine"]["numpy_is_wider"] is True


def test_a_summary_says_whether_the_job_asked_for_huge_pages(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3:glibc.malloc.hugetlb=1")
    assert provenance.describe()["asks_for_huge_pages"] is True
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert provenance.describe()["asks_for_huge_pages"] is False


def test_a_summary_names_the_gpu_that_a_cell_trained_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert provenance.describe(on_gpu=True)["machine"]["gpu"] == "a GPU"
    assert "gpu" not in provenance.describe()["machine"]
