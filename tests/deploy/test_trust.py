"""What a run folder may name."""

from pathlib import Path

import pytest
import yaml

from qbench.deploy import trust
from qbench.train import cli

MLP = {"_target_": "qbench.network.mlp.MLP", "hidden_sizes": [3]}


def test_every_class_that_a_choice_builds_is_on_the_list():
    for group in ("env", "network", "quant"):
        for path in (Path(cli.conf_dir()) / group).glob("*.yaml"):
            target = yaml.safe_load(path.read_text()).get("_target_")
            assert target is None or target in trust.CLASSES[group], path
    for path in (Path(cli.conf_dir()) / "algo").glob("*.yaml"):
        acting = next(iter(yaml.safe_load(path.read_text())["heads"].values()))
        assert acting["_target_"] in trust.CLASSES["head"], path


def test_a_class_on_the_list_is_built():
    assert trust.build("network", MLP, (), obs_shape=(2,)).out_features == 3


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"_target_": "os.system", "command": "true"}, "network is a os.system, which is no class"),
        ({"_target_": "qbench.network.mlp.nn"}, "is a qbench.network.mlp.nn, which is no class"),
        ({**MLP, "hidden_sizes": {"_target_": "os.system"}}, "classes within a class"),
        ({**MLP, "hidden_sizes": ["os:x"]}, "network names os:x"),
        ({**MLP, "hidden_sizes": {"os:x": 1}}, "network names os:x"),
        ({**MLP, "more": 1}, "cannot be built: .*more"),
        ([1], "network is no mapping"),
        (None, "network is no mapping"),
    ],
)
def test_everything_else_is_one_sentence(node, sentence):
    with pytest.raises(ValueError, match=sentence):
        trust.build("network", node, (), obs_shape=(2,))


def test_trust_is_for_a_module_and_not_for_what_lies_below_it():
    node = {"_target_": "collections.OrderedDict", "x": 1}
    assert trust.build("network", node, ["collections"]) == {"x": 1}
    for trusted in (["collection"], ["collections.abc"], [""]):
        with pytest.raises(trust.Untrusted):
            trust.build("network", node, trusted)
