"""The loop, against lists of events written by hand, and what is kept of a finished seed."""

from types import SimpleNamespace

import pytest
import torch

from qbench.collect import Episode
from qbench.schedule import Linear
from qbench.train.average import Average
from qbench.train.build import Loop
from qbench.train.data import ReplayDataModule, chunk_stops
from qbench.train.module import PopulationModule, Snapshots
from qbench.train.stop import Stop


class Learner:
    """Two seeds that only write down what is asked of them."""

    def __init__(self):
        self.network = torch.nn.Linear(1, 2, bias=False)  # one weight per seed
        self.alive = torch.tensor([True, True])
        self.events = []

    def trained(self):
        return {"network": self.network}

    def targets(self):
        return {}

    def optimizers(self):
        return [SimpleNamespace(flat=self.network.weight.data)]

    def update(self, batch):
        self.events.append(f"update {batch}")
        return {"loss": torch.tensor([float(batch), 10.0 * batch])}

    def sync_target(self, tau):
        self.events.append(f"sync {tau}")

    def set_learning_rate(self, learning_rate):
        self.events.append(f"rate {learning_rate:.2f}")


class Collector:
    """Counts env steps; episodes end as told."""

    def __init__(self, events, ends=()):
        self.env_step = 0
        self.events = events
        self.ends = ends
        self.policy = SimpleNamespace(count_updates=lambda n: self.counted.append(n))
        self.counted = []

    def collect(self, num_env_steps):
        before, self.env_step = self.env_step, self.env_step + num_env_steps
        self.events.append(f"collect to {self.env_step}")
        return [e for e in self.ends if before < e.env_step <= self.env_step]


class Sampler:
    def __init__(self):
        self.drawn = 0

    def sample(self, num_batches):
        self.drawn += num_batches
        return list(range(self.drawn - num_batches, self.drawn))


def observations(k):
    """Keeps nothing."""


def make_module(
    stops,
    learning_starts=8,
    total_episodes=None,
    ends=(),
    precision="float32",
    average_weight=1.0,
):
    learner = Learner()
    loop = Loop(
        batch_size=1,
        train_frequency=4,
        gradient_steps=2,
        learning_starts=learning_starts,
        target_update_interval=8,
        tau=0.25,
        average_weight=average_weight,
        learning_rate=Linear(start=1.0, end=0.0, env_steps=20),
    )
    module = PopulationModule(
        learner=learner,
        update=learner.update,
        collector=Collector(learner.events, ends),
        loop=loop,
        phases=lambda env_step: None,
        precision=precision,
        stops=stops,
        snapshots=Snapshots(
            learner, Average(learner, average_weight), total_episodes, observations
        ),
        stop=Stop(),
    )
    return module, learner


def test_bfloat16_multiplies_by_the_weights_of_now():
    module, _ = make_module(stops=[18], precision="bfloat16")
    weight = torch.nn.Parameter(torch.ones(1, 1))
    with module.autocast():
        before = torch.nn.functional.linear(torch.ones(1, 1), weight)
        weight.data.mul_(2)
        after = torch.nn.functional.linear(torch.ones(1, 1), weight)
    assert before.dtype == after.dtype == torch.bfloat16
    assert (before.item(), after.item()) == (1, 2)


def test_env_steps_updates_and_syncs_come_in_the_algorithms_order():
    module, learner = make_module(stops=[18])
    module.training_step(Sampler(), 0)
    assert learner.events == [
        "collect to 4",
        "collect to 8", "rate 0.60", "update 0", "update 1", "sync 0.25",
        "collect to 12", "rate 0.40", "update 2", "update 3",
        "collect to 16", "rate 0.20", "update 4", "update 5", "sync 0.25",
        "collect to 18", "rate 0.10", "update 6", "update 7",
    ]  # fmt: skip


def test_the_behaviour_policy_hears_of_every_update():
    module, _ = make_module(stops=[18])
    module.training_step(Sampler(), 0)
    assert module.collector.counted == [2, 2, 2, 2]


def test_chunks_continue_where_the_last_one_ended():
    module, learner = make_module(stops=[8, 12, 18])
    whole, expected = make_module(stops=[18])
    sampler = Sampler()
    for chunk in range(3):
        module.training_step(sampler, chunk)
    whole.training_step(Sampler(), 0)
    assert learner.events == expected.events


def test_metrics_are_means_since_the_last_call():
    module, _ = make_module(stops=[12, 18])
    sampler = Sampler()
    module.training_step(sampler, 0)
    assert module.mean_loss == pytest.approx((1.5 + 15) / 2)
    assert module.take_metrics() == {"loss": [1.5, 15.0]}
    assert module.take_metrics() == {}
    module.training_step(sampler, 1)
    assert module.take_metrics() == {"loss": [5.5, 55.0]}


def test_a_finished_seed_is_kept_and_the_others_go_on():
    learner = Learner()
    snapshots = Snapshots(learner, Average(learner, 1.0), 2, observations)
    weight = learner.network.weight.data
    weight[:, 0] = torch.tensor([1.0, 2.0])
    first, second = Episode(0, 5, 1.0, 5), Episode(0, 9, 1.0, 4)
    assert snapshots.take([first]) == [first] and snapshots.is_running(0)
    assert snapshots.take([second]) == [second] and not snapshots.is_running(0)
    weight[:, 0] = torch.tensor([30.0, 40.0])
    learner.alive[0] = False
    other = Episode(1, 12, 1.0, 12)
    assert snapshots.take([Episode(0, 12, 1.0, 3), other]) == [other]
    assert not snapshots.are_complete
    kept = snapshots.keep_rest(20)
    assert [(seed.env_step, seed.is_alive) for seed in kept] == [(9, True), (20, True)]
    snapshots.restore()
    assert weight[:, 0].tolist() == [1.0, 40.0]


def test_training_ends_within_a_chunk_when_every_seed_has_had_its_episodes():
    ends = [Episode(0, 6, 1.0, 6), Episode(1, 7, 1.0, 7)]
    module, _ = make_module(stops=[100], total_episodes=1, ends=ends)
    module._trainer = type("Trainer", (), {"should_stop": False})()
    module.training_step(Sampler(), 0)
    assert module.collector.env_step == 8
    assert module._trainer.should_stop


@pytest.mark.parametrize(
    ("total", "cycle", "intervals", "stops"),
    [
        (20, 1, [8], [8, 16, 20]),
        (20, 4, [10, 7], [8, 12, 16, 20]),
        (18, 4, [0], [18]),
        (18, 4, [17], [18]),
        (5, 8, [2], [5]),
    ],
)
def test_chunks_end_at_the_first_cycle_after_an_event(total, cycle, intervals, stops):
    assert chunk_stops(total, cycle, intervals) == stops


def test_the_loader_hands_out_the_sampler_once_per_chunk():
    sampler = Sampler()
    loader = ReplayDataModule(sampler=sampler, num_chunks=3).train_dataloader()
    assert len(loader) == 3 and all(item is sampler for item in loader)


def test_what_is_scored_is_the_average_and_what_trains_is_not():
    learner = Learner()
    weight = learner.network.weight.data
    average = Average(learner, 0.25)
    weight[:, 0] = torch.tensor([0.0, 4.0])
    average.update()  # the first is taken whole
    weight[:, 0] = torch.tensor([8.0, 4.0])
    average.update()
    average.update()  # 0 -> 2 -> 3.5
    with average.applied():
        assert weight[:, 0].tolist() == [3.5, 4.0]
    assert weight[:, 0].tolist() == [8.0, 4.0]
    snapshots = Snapshots(learner, average, 1, observations)
    snapshots.take([Episode(0, 5, 1.0, 5)])
    average.update()  # 3.5 -> 4.625 is after seed 0's end
    snapshots.restore()
    assert weight[:, 0].tolist() == [3.5, 4.0]


def test_without_averaging_nothing_is_kept():
    learner = Learner()
    average = Average(learner, 1.0)
    assert average.num_bytes == 0
    assert Average(learner, 0.5).num_bytes == 2 * 4
    learner.network.weight.data.fill_(3.0)
    average.update()
    with average.applied():
        assert learner.network.weight[:, 0].tolist() == [3.0, 3.0]


def test_the_average_moves_once_per_round_of_updates():
    module, learner = make_module(stops=[12], average_weight=0.5)
    average = module.snapshots.average
    learner.network.weight.data.fill_(0.0)
    average.update()
    learner.network.weight.data.fill_(8.0)
    module.training_step(Sampler(), 0)  # Rounds at 8 and at 12: 0, 4, 6.
    assert average.flat.flatten().tolist() == [6.0, 6.0]
