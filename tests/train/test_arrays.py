"""A population in NumPy at one observation each: what the torch network computes there."""

import numpy as np
import pytest
import torch
from torch import nn

from qbench import layers
from qbench.network.cnn import CNN
from qbench.network.heads import Actor, QNetwork
from qbench.quant.trace import ConversionError
from qbench.train.arrays import ArrayNetwork
from qbench.types import EnvSpec
from tests.algo.test_ddpg import BOX
from tests.algo.test_dqn import random_batch
from tests.quant.test_learned import LEARNED
from tests.quant.test_qat import learner_of, observations, scheme
from tests.toys import mlp, q_population

OBS = observations(3, 50).numpy()


def outputs(network, obs=OBS):
    return np.stack([network(obs[:, i]) for i in range(obs.shape[1])], axis=1)


@torch.no_grad()
def expected(module, obs=OBS):
    return module.eval()(torch.from_numpy(obs)).numpy()


def test_a_layer_by_hand():
    weight = nn.Parameter(torch.tensor([[[1.0, 2.0], [3.0, -4.0]]]))
    layer = layers.Linear(weight, nn.Parameter(torch.tensor([[0.5, 0.0]])))
    network = ArrayNetwork(nn.Sequential(layer))
    assert network(np.array([[1.0, 1.0]], np.float32)).tolist() == [[3.5, -1.0]]


def test_float_networks_agree_to_rounding_and_follow_updates_in_place():
    learner = learner_of(q_population([0, 1, 2]), learning_rate=0.02)
    network = ArrayNetwork(learner.network)
    for i in range(5):
        learner.update(random_batch(3, first_seed=i))
        before = outputs(network)
        np.testing.assert_allclose(before, expected(learner.network), rtol=1e-5, atol=1e-6)
    learner.update(random_batch(3))
    assert (outputs(network) != before).any()


@pytest.mark.parametrize(
    "changes",
    [{}, {"bits": 4}, {"bits": 1}, {"granularity": "tensor", "grid": "affine"}, LEARNED],
    ids=["8", "4", "1", "affine", "learned"],
)
def test_quantized_networks_agree_bit_for_bit_after_every_update(changes):
    learner = learner_of(scheme(**changes).prepare(q_population([0, 1, 2])), learning_rate=0.02)
    network = ArrayNetwork(learner.network)
    for i in range(5):
        learner.update(random_batch(3, first_seed=i))
        found = outputs(network)  # in whatever mode the update has left the network
        learner.update(random_batch(3, first_seed=i))
        assert (found != (found := outputs(network))).any()
        assert np.array_equal(found, expected(learner.network))


def test_a_layer_that_does_not_quantize_yet_is_a_float_one():
    quant = scheme(2, schedule={"delay_env_steps": 10, "freeze_env_steps": None})
    learner = learner_of(quant.prepare(q_population([0, 1, 2])))
    quant.advance(learner.network, 0, is_target=False)
    network = ArrayNetwork(learner.network)
    learner.update(random_batch(3))
    in_float = outputs(network)
    np.testing.assert_allclose(in_float, expected(learner.network), rtol=1e-5, atol=1e-6)
    quant.advance(learner.network, 10, is_target=False)
    assert (outputs(network) != in_float).any()
    assert np.array_equal(outputs(network), expected(learner.network))


@pytest.mark.parametrize("quant", [None, scheme()], ids=["none", "qat8"])
def test_an_actor_ends_in_its_box(quant):
    actor = layers.populate(lambda: Actor(make_torso=mlp([24, 16]), spec=BOX), [0, 1])
    actor = actor if quant is None else quant.prepare(actor)
    obs = observations(2, 50).numpy()[..., : BOX.obs_shape[0]]
    found = outputs(ArrayNetwork(actor), obs)
    np.testing.assert_allclose(found, expected(actor, obs), rtol=1e-5, atol=1e-6)
    assert found.shape == (2, 50, *BOX.action_shape)


@pytest.mark.parametrize("quant", [None, scheme()], ids=["none", "qat8"])
def test_a_seeds_bits_do_not_depend_on_the_others(quant):
    alone, crowd = (
        net if quant is None else quant.prepare(net)
        for net in (q_population([1]), q_population([0, 1, 2]))
    )
    assert np.array_equal(
        outputs(ArrayNetwork(alone), OBS[1:2])[0], outputs(ArrayNetwork(crowd))[1]
    )


@pytest.mark.filterwarnings("error")
def test_a_seed_of_no_numbers_says_nothing():
    network = q_population([0, 1, 2])
    with torch.no_grad():
        next(network.parameters())[1] = float("inf")
    found = outputs(ArrayNetwork(network))
    assert not np.isfinite(found[1]).all() and np.isfinite(found[[0, 2]]).all()


IMAGES = EnvSpec(id="toy", obs_shape=(2, 10, 10), num_actions=3, obs_high=255)


def image_population(seeds):
    torso = lambda obs_shape: CNN(  # noqa: E731
        obs_shape=obs_shape, channels=[4, 3], kernel_sizes=[4, 3], strides=[2, 1], hidden_size=8
    )
    return layers.populate(lambda: QNetwork(make_torso=torso, spec=IMAGES), seeds)


def test_images_of_bytes_pass_convolutions_and_follow_updates():
    rng = np.random.default_rng(0)
    learner = learner_of(image_population([0, 1]), learning_rate=0.02)
    network = ArrayNetwork(learner.network)
    obs = rng.integers(0, 256, (2, 20, *IMAGES.obs_shape), np.uint8)
    before = None
    for i in range(3):
        images = torch.from_numpy(rng.integers(0, 256, (2, 16, *IMAGES.obs_shape), np.uint8))
        learner.update(random_batch(2, 16, first_seed=i)._replace(obs=images, next_obs=images))
        found = outputs(network, obs)
        np.testing.assert_allclose(found, expected(learner.network, obs), rtol=1e-5, atol=1e-6)
        assert before is None or (found != before).any()
        before = found


def test_a_quantized_layer_may_follow_float_convolutions():
    """Of a scheme of one's own, which leaves convolutions alone."""
    quantized = scheme().prepare(image_population([0, 1]))
    network = image_population([0, 1])
    for name in ("torso.layers.5", "head"):
        network.set_submodule(name, quantized.get_submodule(name))
    obs = np.random.default_rng(0).integers(0, 256, (2, 5, *IMAGES.obs_shape), np.uint8)
    with torch.no_grad():
        for layer in (m for m in network.modules() if hasattr(m, "input_range")):
            layer.input_range.copy_(torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(2, 2, 1))
    found = outputs(ArrayNetwork(network), obs)
    np.testing.assert_allclose(found, expected(network, obs), rtol=1e-5, atol=1e-6)


def test_images_of_a_seed_do_not_depend_on_the_others():
    obs = np.random.default_rng(0).integers(0, 256, (2, 5, *IMAGES.obs_shape), np.uint8)
    alone = outputs(ArrayNetwork(image_population([1])), obs[1:])
    assert np.array_equal(alone[0], outputs(ArrayNetwork(image_population([0, 1])), obs)[1])


class Doubled(layers.Linear):
    """Another layer from outside."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (layers.swap_layers(q_population([0]), lambda x: Doubled(x.weight, x.bias)), "Doubled"),
        (scheme().prepare(image_population([0])), "QuantLayer"),
    ],
    ids=["subclass", "quantized convolution"],
)
def test_what_has_no_form_in_arrays_is_named(module, said):
    with pytest.raises(ConversionError, match=f"acting in arrays .*{said}"):
        ArrayNetwork(module)
