"""Tests of tft_kernels.py beside those of test_tft_model.py, where the stock network is the oracle of all of it."""

from __future__ import annotations

import pytest
import torch
from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import (
    GatedResidualNetwork,
)
from torch import Tensor, nn

import tft_kernels
from tft_kernels import dropout, kept, pinball, select_reals


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    factors = kept((1000, 333), 0.1, torch.zeros(1))
    assert factors.shape == (1000, 333) and factors.unique().numel() == 2
    assert (factors == 0).double().mean() == pytest.approx(0.1, abs=0.002)
    assert factors.double().mean() == pytest.approx(1, abs=0.002)
    neighbours = (factors[:, 1:] == 0) & (factors[:, :-1] == 0)  # four decisions share a draw: still independent
    assert neighbours.double().mean() == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.999])
def test_dropout_is_seeded_and_off_outside_of_training(p: float) -> None:
    inputs = torch.ones(64, 7)
    torch.manual_seed(3)
    first = dropout(inputs, p, training=True)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(inputs, p, training=True))
    assert (first == 0).double().mean() == pytest.approx(p, abs=0.1)
    assert dropout(inputs, p, training=False) is inputs


def networks(inputs: int, outputs: int, n_variables: int, p: float = 0.0) -> nn.ModuleList:
    torch.manual_seed(1)
    grns = [GatedResidualNetwork(inputs, min(inputs, outputs), outputs, dropout=p) for _ in range(n_variables)]
    for parameter in nn.ModuleList(grns).parameters():
        nn.init.normal_(parameter, std=0.5)
    return nn.ModuleList(grns).double()


@pytest.mark.parametrize("inputs", [3, 6])  # with and without resampling of the skip connection
def test_gradients_of_the_selection_are_those_of_its_outputs(inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tft_kernels, "_ROWS", 4)  # 10 rows: two pieces and a rest
    grns = networks(inputs, 6, 3)
    torch.manual_seed(2)
    numbers = [torch.randn(3, 10, dtype=torch.float64) for _ in range(2)]
    lines = [torch.randn(3, inputs, dtype=torch.float64) for _ in range(2)]

    def selected(slope: Tensor, offset: Tensor, values: Tensor, share: Tensor, *_: Tensor) -> Tensor:
        return select_reals(list(grns), slope, offset, values, share)

    arguments = [each.requires_grad_() for each in (*lines, *numbers)]
    assert torch.autograd.gradcheck(selected, (*arguments, *grns.parameters()))
    for k, grn in enumerate(grns):  # and the sum is that of the networks themselves
        alone = torch.zeros_like(numbers[1])
        alone[k] = 1.0
        expected = grn(numbers[0][k, :, None] * lines[0][k] + lines[1][k])
        torch.testing.assert_close(selected(*lines, numbers[0], alone), expected)


def test_dropout_within_the_selection_has_the_same_pattern_forwards_and_backwards() -> None:
    grns = networks(4, 6, 2, p=0.5).train()
    slope, offset = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    values = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    share = torch.rand(2, 9, dtype=torch.float64)

    def seeded(values: Tensor) -> Tensor:
        torch.manual_seed(7)
        return select_reals(list(grns), slope, offset, values, share)

    assert torch.autograd.gradcheck(seeded, (values,))


def test_missing_labels_have_no_part_in_the_loss_and_windows_count_by_their_weight() -> None:
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    forecast = torch.zeros(1, 2, 1, 3, requires_grad=True)
    labels = torch.tensor([[[1.0], [float("nan")]]])
    (loss,) = pinball(forecast, labels, quantiles, torch.ones(1, 1))
    assert loss.item() == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    (half,) = pinball(forecast, labels, quantiles, torch.tensor([[0.5]]))
    assert half.item() == pytest.approx(loss.item() / 2)
    loss.backward()
    assert forecast.grad is not None
    assert (forecast.grad[0, 1] == 0).all() and (forecast.grad[0, 0] != 0).all()


def test_the_pinball_loss_and_its_gradient_are_the_definitions() -> None:
    torch.manual_seed(0)
    quantiles, weight = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    labels = torch.randn(4, 5, 2, dtype=torch.float64)
    forecast = torch.randn(4, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    error = labels[..., None] - forecast
    expected = torch.maximum(quantiles * error, (quantiles - 1) * error).mean(dim=-1) * weight[:, None]
    torch.testing.assert_close(pinball(forecast, labels, quantiles, weight), expected.sum(dim=(0, 1)))
    assert torch.autograd.gradcheck(lambda each: pinball(each, labels, quantiles, weight), (forecast,))
