"""The running mean of a network's weights while it learns: what is validated, kept and served.

With a learning rate above zero the weights wander about where they ought to be, so the epoch that happens to validate
best is partly luck. Their mean wanders less. It reaches back over about the last ninth of all steps so far, whatever
the length of a training, so that the beginnings are forgotten. Knows nothing of the network.

Source: polynomial-decay averaging, Shamir and Zhang, Stochastic Gradient Descent for Non-smooth Optimization, ICML 2013
(arXiv:1212.1824); the idea is Polyak and Juditsky's, SIAM J. Control Optim. 30 (1992). torch's `AveragedModel` keeps a
second network and takes a step for each of its 500 small tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_DECAY = 8  # the larger, the shorter the mean's memory: weight (DECAY + 1) / (step + DECAY) for the newest weights


class WeightAverage:
    """Mean of the weights over the steps of a training.

    Parameters
    ----------
    weights : sequence of Tensor
        What the optimiser changes in place.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = [weight.detach() for weight in weights]
        self._mean = [weight.clone() for weight in self._weights]

    def add(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        torch._foreach_lerp_(self._mean, self._weights, (_DECAY + 1) / (step + _DECAY))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the network have the mean for its weights meanwhile."""
        own = [weight.clone() for weight in self._weights]
        _copy(self._weights, self._mean)
        try:
            yield
        finally:
            _copy(self._weights, own)

    def take(self) -> None:
        """Go on from the weights that the network has now, as the mean."""
        _copy(self._mean, self._weights)


def _copy(to: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for there, here in zip(to, source, strict=True):
        there.copy_(here)


def _self_check() -> None:
    weight = torch.zeros(3)
    average = WeightAverage([weight])
    for step in range(1, 1001):
        weight.fill_(float(step))
        average.add(step)
    with average.in_use():
        assert 880 < float(weight[0]) < 910
    assert float(weight[0]) == 1000
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
