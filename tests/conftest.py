import numpy as np
import pytest
import torch

from qbench import product

FLOAT_BYTES = 4


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def by_numpy(monkeypatch, one_thread):
    """NumPy multiplies, whatever this CPU is; a list that grows with every product."""
    monkeypatch.setattr(product, "IS_WIDER", True)
    products = []
    multiply = np.matmul

    def counted(*matrices, **options):
        # Others NumPy sums in a loop of its own.
        for matrix in matrices:
            (*_, rows, columns), (*_, row, column) = matrix.shape, matrix.strides
            assert (column == FLOAT_BYTES and row >= FLOAT_BYTES * columns) or (
                row == FLOAT_BYTES and column >= FLOAT_BYTES * rows
            )
        products.append(matrices)
        return multiply(*matrices, **options)

    monkeypatch.setattr(np, "matmul", counted)
    return products


@pytest.fixture(params=["torch", "numpy"])
def either_library(request):
    """Once with PyTorch's products (on an ordinary CPU), once with NumPy's."""
    if request.param == "numpy":
        request.getfixturevalue("by_numpy")
