"""DQN against numbers worked by hand, and the laws of a population."""

import pytest
import torch
from torch import nn

from qbench import layers
from qbench.algo.dqn import DQN
from qbench.algo.optimizer import PopulationAdam
from qbench.types import Transition
from tests.toys import q_population


def make_learner(network, **changes):
    settings = {
        "learning_rate": 1e-2,
        "gamma": 0.9,
        "double": True,
        "target_network": True,
        "loss": "huber",
        "max_grad_norm": 10.0,
    }
    return DQN(network=network, **(settings | changes))


def random_batch(num_seeds, batch_size=8, first_seed=0):
    """Minibatches that depend on the seed, not on its place in the population."""
    members = []
    for k in range(num_seeds):
        g = torch.Generator().manual_seed(first_seed + k)
        members.append(
            Transition(
                obs=torch.randn(batch_size, 4, generator=g),
                action=torch.randint(2, (batch_size,), generator=g),
                reward=torch.randn(batch_size, generator=g),
                terminated=torch.rand(batch_size, generator=g) < 0.2,
                next_obs=torch.randn(batch_size, 4, generator=g),
            )
        )
    return Transition(*(torch.stack(field) for field in zip(*members, strict=True)))


def linear_q(weight):
    """Q(s, a) = weight[a] . s for one seed, without hidden layers."""
    plain = nn.Linear(2, 2)
    plain.weight.data = torch.tensor(weight)
    plain.bias.data.zero_()
    return layers.populate(lambda: plain, [0])


def one_transition(terminated=False):
    return Transition(
        obs=torch.tensor([[[1.0, 0.0]]]),
        action=torch.tensor([[0]]),
        reward=torch.tensor([[1.0]]),
        terminated=torch.tensor([[terminated]]),
        next_obs=torch.tensor([[[0.0, 1.0]]]),
    )


@pytest.mark.parametrize(("terminated", "target"), [(False, 1 + 0.9 * 4), (True, 1.0)])
def test_loss_by_hand(terminated, target):
    # Q(s, 0) = 2; Q(s', .) = (3, 4).
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]), double=False, loss="squared")
    loss, metrics = learner.loss(one_transition(terminated))
    assert loss.item() == pytest.approx((target - 2) ** 2)
    assert metrics["q_mean"].item() == 2.0


def test_double_dqn_evaluates_the_online_choice_with_the_target():
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]), loss="squared")
    learner.loss(one_transition())  # The first loss hands the ranges to the target.
    with torch.no_grad():  # Online now prefers action 0 at s'; the target says Q(s', 0) = 3.
        learner.network.weight[0, 0, 1] = 9.0
    loss, _ = learner.loss(one_transition())
    assert loss.item() == pytest.approx((1 + 0.9 * 3 - 2) ** 2)


def test_without_target_network_the_online_one_bootstraps():
    learner = make_learner(
        linear_q([[2.0, 3.0], [0.0, 4.0]]), target_network=False, double=False, loss="squared"
    )
    with torch.no_grad():
        learner.network.weight[0, 1, 1] = 5.0
    loss, _ = learner.loss(one_transition())
    assert loss.item() == pytest.approx((1 + 0.9 * 5 - 2) ** 2)


def test_adams_first_step_moves_every_touched_weight_by_the_learning_rate():
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]), learning_rate=0.1)
    learner.update(one_transition())
    assert learner.network.weight[0].tolist() == [[pytest.approx(2.1), 3.0], [0.0, 4.0]]


def test_gradients_are_clipped_per_seed():
    network = q_population([0, 1])
    learner = make_learner(network, max_grad_norm=0.5, loss="squared")
    batch = random_batch(2)
    batch = batch._replace(reward=batch.reward * torch.tensor([[1000.0], [1e-6]]))
    learner.update(batch)
    norms = learner.optimizer.grad.norm(dim=1)
    assert norms[0] == pytest.approx(0.5, rel=1e-4)
    assert norms[1] < 0.5


def test_a_gradient_within_the_limit_is_left_alone():
    free, limited = (make_learner(q_population([0, 1]), max_grad_norm=m) for m in (None, 1e6))
    for learner in (free, limited):
        learner.update(random_batch(2))
    assert torch.equal(free.optimizer.grad, limited.optimizer.grad)


def test_the_learning_rate_that_was_set_is_that_of_the_next_update():
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]), learning_rate=0.1)
    learner.set_learning_rate(0.05)
    learner.update(one_transition())
    # Adam's first step is the learning rate, whatever the gradient's length.
    assert learner.network.weight[0, 0, 0].item() == pytest.approx(2.05)


def test_hard_sync_copies_and_soft_sync_blends():
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]))
    with torch.no_grad():
        learner.network.weight.fill_(10.0)
    learner.sync_target(0.1)
    assert learner.target.network.weight[0, 0, 0].item() == pytest.approx(0.9 * 2 + 0.1 * 10)
    learner.sync_target(1.0)
    assert torch.equal(learner.target.network.weight, learner.network.weight)


def test_greedy_action_is_the_best():
    learner = make_learner(linear_q([[2.0, 3.0], [0.0, 4.0]]))
    assert learner.act(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])).tolist() == [[0, 1]]


@pytest.mark.usefixtures("either_library")
@pytest.mark.parametrize("num_seeds", [2, 3, 5, 8])
def test_a_seed_is_bit_identical_in_any_population_over_100_updates(num_seeds):
    alone = make_learner(q_population([11], hidden_sizes=(120, 84)))
    crowd = make_learner(q_population(list(range(11, 11 + num_seeds)), hidden_sizes=(120, 84)))
    for i in range(100):
        alone.update(random_batch(1, 128, first_seed=i))
        crowd.update(random_batch(num_seeds, 128, first_seed=i))
        if i % 10 == 0:
            alone.sync_target(0.1)
            crowd.sync_target(0.1)
    assert torch.equal(alone.optimizer.flat[0], crowd.optimizer.flat[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("either_library")
def test_a_diverged_seed_is_frozen_and_the_others_bits_do_not_change():
    healthy, stricken = (make_learner(q_population([0, 1, 2])) for _ in range(2))
    for i in range(20):
        batch = random_batch(3, first_seed=i)
        healthy.update(batch)
        if i == 10:
            frozen = stricken.optimizer.flat[1].clone()
        if i >= 10:
            reward = batch.reward.clone()
            reward[1, 3] = float("nan")
            batch = batch._replace(reward=reward)
        stricken.update(batch)
    assert stricken.alive.tolist() == [True, False, True]
    assert torch.equal(stricken.optimizer.flat[1], frozen)
    for k in (0, 2):
        assert torch.equal(stricken.optimizer.flat[k], healthy.optimizer.flat[k])


def test_freezing_at_the_very_first_update_keeps_the_initial_weights():
    learner = make_learner(q_population([0, 1]))
    before = learner.optimizer.flat.clone()
    batch = random_batch(2)
    batch.reward[0] = float("inf")
    learner.update(batch)
    assert torch.equal(learner.optimizer.flat[0], before[0])
    assert not torch.equal(learner.optimizer.flat[1], before[1])


def test_coded_moments_keep_seeds_apart_and_learn_nearly_the_same():
    pytest.importorskip("bitsandbytes", reason="the adam8bit extra is not installed")
    settings = {"learning_rate": 1e-3, "gamma": 0.9, "double": True, "target_network": True}
    alone, crowd, whole = (
        DQN(
            network=q_population(seeds),
            loss="huber",
            max_grad_norm=10.0,
            moments_dtype=dtype,
            **settings,
        )
        for seeds, dtype in (([3], "uint8"), ([3, 4, 5], "uint8"), ([3], "float32"))
    )
    start = whole.optimizer.flat.clone()
    for i in range(50):
        for learner, count in ((alone, 1), (crowd, 3), (whole, 1)):
            learner.update(random_batch(count, 32, first_seed=i))
            learner.sync_target(0.1)
    assert torch.equal(alone.optimizer.flat[0], crowd.optimizer.flat[0])
    moved = (whole.optimizer.flat - start).norm()
    gap = (alone.optimizer.flat[:, : start.shape[1]] - whole.optimizer.flat).norm()
    assert 0 < gap < 0.3 * moved
    # 4-16-12-2 has 310 parameters, padded to 512: two moments and 2 x 2 scales of blocks.
    assert sum(m.nbytes for m in alone.optimizer.moments()) == 2 * 512 + 4 * 4
    assert sum(m.nbytes for m in whole.optimizer.moments()) == 2 * 4 * 320


def test_a_seed_with_coded_moments_freezes_alone():
    pytest.importorskip("bitsandbytes", reason="the adam8bit extra is not installed")
    optimizer = PopulationAdam(
        q_population([0, 1]), learning_rate=1e-2, max_grad_norm=None, moments_dtype="uint8"
    )
    parameters = optimizer._parameters

    def step(factor):
        loss = sum((p**2).flatten(1).sum(1) for p in parameters)
        optimizer.step(loss * torch.tensor([1.0, factor]))

    step(1.0)
    kept = [tensor.clone() for tensor in (optimizer.flat, *optimizer.moments())]
    step(float("nan"))
    assert optimizer.alive.tolist() == [True, False]
    for tensor, old in zip((optimizer.flat, *optimizer.moments()), kept, strict=True):
        assert torch.equal(tensor[1], old[1])
        assert not torch.equal(tensor[0], old[0])
