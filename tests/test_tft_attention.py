"""Attention made piece by piece is attention."""

from __future__ import annotations

import pytest
import torch
from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import InterpretableMultiHeadAttention
from torch import Tensor
from torch.nn import functional

import tft_attention
from tft_attention import attend, attended


def inputs(batch: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of two heads."""
    torch.manual_seed(0)
    shapes = (batch, 2, 4, 3), (batch, 2, 7, 3), (batch, 7, 3)
    queries, keys, values = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return queries, keys, values


def masks(batch: int) -> Tensor:
    """A mask per window, as windows of unequal length have them: no query looks ahead, and some not far back."""
    bias = torch.zeros(batch, 4, 7, dtype=torch.float64)
    bias.masked_fill_(torch.ones(4, 7, dtype=torch.bool).triu(4), float("-inf"))
    for k in range(batch):
        bias[k, :, : k % 3] = float("-inf")
    return bias


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_the_same_whether_it_explains_itself_or_not(heads: int) -> None:
    torch.manual_seed(0)
    attention = InterpretableMultiHeadAttention(heads, 16).eval()
    keys, mask = torch.randn(3, 20, 16), torch.ones(12, 20, dtype=torch.bool).triu(8).expand(3, -1, -1)
    explained, weights = attend(attention, keys[:, 8:], keys, mask, explain=True)
    plain, nothing = attend(attention, keys[:, 8:], keys, mask, explain=False)
    assert nothing is None and weights is not None and weights.shape == (3, 12, heads, 20)
    torch.testing.assert_close(plain, explained, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 12, heads))
    assert (weights.transpose(1, 2)[:, :, mask[0]] == 0).all()


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
@pytest.mark.parametrize("common", [True, False])
def test_pieces_are_the_fused_attention_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, pieces: int, common: bool
) -> None:
    monkeypatch.setattr(tft_attention, "_SCORES", 5 // pieces * 2 * 4 * 7)
    queries, keys, values = inputs()
    bias = masks(5)[:1] if common else masks(5)
    upstream = torch.randn(5, 2, 4, 3, dtype=torch.float64)
    ours = attended(queries, keys, values, bias)
    shared = values[:, None].expand(-1, 2, -1, -1)
    fused = functional.scaled_dot_product_attention(queries, keys, shared, attn_mask=bias[:, None])
    torch.testing.assert_close(ours, fused)
    for one, other in zip(
        torch.autograd.grad(ours, (queries, keys, values), upstream),
        torch.autograd.grad(fused, (queries, keys, values), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradients_are_those_of_finite_differences() -> None:
    bias = masks(2)
    assert torch.autograd.gradcheck(lambda *each: attended(*each, bias), inputs(2))


def test_half_precision_is_left_to_torch() -> None:
    queries, keys, values = inputs(dtype=torch.bfloat16)
    output = attended(queries, keys, values, masks(5).to(torch.bfloat16))
    assert output.dtype == torch.bfloat16 and torch.isfinite(output).all()


def test_no_window_is_no_error() -> None:
    queries, keys, values = inputs(0)
    assert attended(queries, keys, values, masks(1)).shape == (0, 2, 4, 3)
