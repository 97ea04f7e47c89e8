"""A finished cell that tests copy before they change it."""

import pytest

from tests.deploy.cells import finished


@pytest.fixture(scope="session")
def cell(tmp_path_factory):
    choices = ("quant=qat8", "formats=[onnx,c]", "network.hidden_sizes=[64,64]")
    return finished(tmp_path_factory.mktemp("deploy") / "cell", *choices)
