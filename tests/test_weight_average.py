"""Tests of weight_average.py: which weights are validated, kept and served."""

from __future__ import annotations

import pytest
import torch

from weight_average import WeightAverage


def test_the_mean_of_noisy_weights_is_nearer_to_where_they_ought_to_be():
    generator = torch.Generator().manual_seed(1)
    weights = [torch.zeros(50), torch.zeros(3, 4)]
    average = WeightAverage(weights)
    for step in range(1, 501):
        for weight in weights:
            weight.copy_(1 + torch.randn(weight.shape, generator=generator))
        average.add(step)
    with average.in_use():
        for weight in weights:
            assert (weight - 1).abs().mean() < 0.3
    assert (weights[0] - 1).abs().mean() > 0.6


def test_the_beginnings_are_forgotten_whatever_the_length():
    for steps in (50, 5000):
        weight = torch.full((2,), 1000.0)
        average = WeightAverage([weight])
        for step in range(1, steps + 1):
            weight.fill_(1000.0 if step <= steps // 5 else 0.0)
            average.add(step)
        with average.in_use():
            assert 0 <= weight[0] < 1


def test_the_networks_own_weights_come_back_after_an_error_too():
    weight = torch.ones(2)
    average = WeightAverage([weight])
    weight.fill_(5.0)
    with pytest.raises(ValueError, match="inside"), average.in_use():
        assert weight[0] == 1
        raise ValueError("inside")
    assert weight[0] == 5


def test_a_mean_that_was_kept_is_gone_on_with():
    weight = torch.tensor([3.0])
    average = WeightAverage([weight])
    weight.fill_(8.0)
    average.take()
    weight.fill_(0.0)
    with average.in_use():
        assert weight[0] == 8
