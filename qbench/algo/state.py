"""What every learner keeps: networks with their ranges, moments, who is alive."""

import torch

from qbench.types import Learner, State


def learner_state(learner: Learner) -> State:
    """Networks, optimizers and `alive` of a learner; it adds its own counters."""
    networks = {**learner.trained(), **learner.targets()}
    return {
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizers": [optimizer.adam.state_dict() for optimizer in learner.optimizers()],
        "alive": learner.alive,
    }


@torch.no_grad()
def load_learner_state(learner: Learner, state: State) -> None:
    """Put them back, in place: parameters are views of the optimizers' flat tensors."""
    networks = {**learner.trained(), **learner.targets()}
    for name, network in networks.items():
        network.load_state_dict(state["networks"][name])
        network.eval()  # Nothing that was cached of other weights may stay.
    for optimizer, stored in zip(learner.optimizers(), state["optimizers"], strict=True):
        optimizer.adam.load_state_dict(stored)
    learner.alive.copy_(state["alive"])
