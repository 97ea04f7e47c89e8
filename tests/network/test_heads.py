"""Heads: shapes, bounds and where the action enters."""

import pytest
import torch

from qbench import layers
from qbench.network.cnn import CNN
from qbench.network.heads import Actor, Critic, QNetwork
from qbench.types import EnvSpec
from tests.toys import mlp

BOX = EnvSpec(id="box", obs_shape=(3,), action_low=(-2.0, 0.0), action_high=(2.0, 1.0))
IMAGE = EnvSpec(id="image", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6)


def paper(obs_shape):
    return CNN(
        obs_shape=obs_shape, channels=[16, 32], kernel_sizes=[8, 4], strides=[4, 2], hidden_size=256
    )


def test_actions_fill_the_box_and_never_leave_it():
    actor = layers.populate(lambda: Actor(make_torso=mlp([16]), spec=BOX), [0, 1])
    with torch.no_grad():
        action = actor(1e4 * torch.randn(2, 500, 3))
    assert action.shape == (2, 500, 2)
    assert action.amin((0, 1)).tolist() == [-2.0, 0.0]
    assert action.amax((0, 1)).tolist() == [2.0, 1.0]


def test_zero_output_is_the_middle_of_the_box():
    box = layers.TanhToBox(BOX.action_low, BOX.action_high)
    assert box(torch.zeros(2)).tolist() == [0.0, 0.5]
    half = torch.atanh(torch.tensor(0.5))
    assert box(half.repeat(2)).tolist() == pytest.approx([1.0, 0.75])


def test_the_critic_sees_observation_and_action():
    critic = Critic(make_torso=mlp([8]), spec=BOX)
    assert critic.torso.layers[0].in_features == 5
    obs, action = torch.randn(7, 3), torch.randn(7, 2, requires_grad=True)
    q = critic(obs, action)
    assert q.shape == (7,)
    (grad,) = torch.autograd.grad(q.sum(), action)
    assert grad.abs().sum() > 0


def test_a_population_of_actors_computes_what_its_members_compute():
    make = lambda: Actor(make_torso=mlp([16]), spec=BOX)  # noqa: E731
    actors = layers.populate(make, [4, 9])
    x = torch.randn(2, 6, 3)
    for k in range(2):
        one = layers.take_seed(actors, k)
        assert one.box.scale.shape == (1, 2)
        torch.testing.assert_close(one(x[k]), actors(x)[k])


def test_the_papers_network_has_the_papers_shapes():
    # 84x84x4 -> 20x20x16 -> 9x9x32 -> 256: the seed paper's Figure 1.
    q = QNetwork(make_torso=paper, spec=IMAGE)
    sizes = {name: p.numel() for name, p in q.named_parameters() if name.endswith("weight")}
    assert list(sizes.values()) == [16 * 4 * 64, 32 * 16 * 16, 256 * 9 * 9 * 32, 6 * 256]


def test_bytes_are_scaled_to_one():
    scale = layers.ScaleBytes(255)
    scaled = scale(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert scaled.tolist() == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize(("shape", "said"), [((4,), "takes images"), ((4, 6, 84), "kernel of 8")])
def test_what_is_no_image_or_too_small_is_named(shape, said):
    with pytest.raises(ValueError, match=said):
        paper(shape)
