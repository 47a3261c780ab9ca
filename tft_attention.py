"""Interpretable multi-head attention as pytorch-forecasting's module computes it, in a third of the time.

The heads are a few numbers wide, and BLAS is slow at products with so few columns: turned around, with few rows, the
same products take a quarter of the time. The scores of all windows together leave the caches, so they are made piece by
piece. torch's fused attention does neither. Figures: `Docs/PERFORMANCE.md`. Knows nothing of data, files or HTTP.

Source of the network: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as pytorch-forecasting has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tft_kernels import dropout

_SCORES = 2**19  # numbers that are worked on at once: 2 MB, which stay in the caches of two cores


def attend(attention: Any, query: Tensor, keys: Tensor, mask: Tensor, *, explain: bool) -> tuple[Tensor, Tensor | None]:
    """Interpretable multi-head attention with all heads at once; the value head is shared.

    Parameters
    ----------
    attention : InterpretableMultiHeadAttention
    query : Tensor, (batch, horizon, hidden)
    keys : Tensor, (batch, steps, hidden)
    mask : Tensor of bool, (batch or 1, horizon, steps)
        True where a query must not look; every query may look somewhere.
    explain : bool
        Whether the weights are wanted: without them, they need not all be kept.

    Returns
    -------
    Output (batch, horizon, hidden); weights (batch, horizon, heads, steps) or None.
    """
    heads, width = attention.n_head, attention.d_k

    def project(layers: Any, inputs: Tensor) -> Tensor:
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        return functional.linear(inputs, weight, bias).view(*inputs.shape[:2], heads, width).transpose(1, 2)

    queries, places = project(attention.q_layers, query), project(attention.k_layers, keys)
    values = attention.v_layer(keys)
    weights = None
    if explain:
        score = (queries @ places.transpose(-1, -2)) / width**0.5
        weights = torch.softmax(score.masked_fill(mask[:, None], attention.mask_bias), dim=-1)
        output = weights @ values[:, None]  # (batch, heads, horizon, width)
        weights = weights.transpose(1, 2)
    else:
        bias = queries.new_zeros(mask.shape).masked_fill_(mask, float("-inf"))
        output = attended(queries, places, values, bias)
    rate = attention.dropout.p
    output = dropout(output, rate, training=attention.training).mean(dim=1)  # each head has its own dropout
    return dropout(attention.w_h(output), rate, training=attention.training), weights


def attended(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Scaled dot-product attention whose heads share their values.

    Parameters
    ----------
    queries : Tensor, (batch, heads, horizon, width)
    keys : Tensor, (batch, heads, steps, width)
    values : Tensor, (batch, steps, width)
    bias : Tensor, (batch or 1, horizon, steps)
        Added to the scores; minus infinity where a query must not look. Gets no gradient.

    Returns
    -------
    Tensor, (batch, heads, horizon, width)
    """
    if queries.device.type != "cpu" or queries.dtype not in (torch.float32, torch.float64):
        shared = values[:, None].expand(-1, queries.size(1), -1, -1)
        return functional.scaled_dot_product_attention(queries, keys, shared, attn_mask=bias[:, None])
    result: Tensor = _Attention.apply(queries, keys, values, bias)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    """What `attended` does, window by window; the weights are computed again for the gradients.

    The last two axes of queries, keys and values lie the other way round in memory.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        batch, heads, horizon, width = queries.shape
        q = queries.transpose(2, 3).mul(width**-0.5).contiguous()  # (batch, heads, width, horizon)
        k, v = keys.transpose(2, 3).contiguous(), values.transpose(1, 2).contiguous()
        output = queries.new_empty(batch, width, heads * horizon)
        for part, weight in _weights(q, k, bias):
            torch.bmm(v[part], weight.transpose(1, 2), out=output[part])
        ctx.save_for_backward(q, k, v, bias, output)
        return output.view(batch, width, heads, horizon).permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, output = ctx.saved_tensors
        batch, heads, width, horizon = q.shape
        given = upstream.permute(0, 3, 1, 2).reshape(batch, width, heads * horizon)
        along = (given * output).sum(dim=1).unsqueeze(-1)  # (batch, heads x horizon, 1)
        for_q, for_k, for_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        room = None
        for part, weight in _weights(q, k, bias):
            room = torch.empty_like(weight) if room is None else room
            for_score = room[: len(weight)]
            torch.bmm(given[part], weight, out=for_v[part])
            torch.bmm(given[part].transpose(1, 2), v[part], out=for_score)
            for_score.sub_(along[part]).mul_(weight)  # the slope of softmax
            each = for_score.view(-1, horizon, k.size(-1))
            torch.bmm(k[part].flatten(0, 1), each.transpose(1, 2), out=for_q[part].flatten(0, 1))
            torch.bmm(q[part].flatten(0, 1), each, out=for_k[part].flatten(0, 1))
        return for_q.mul_(width**-0.5).transpose(2, 3), for_k.transpose(2, 3), for_v.transpose(1, 2), None


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some windows, and their attention weights (windows, heads x horizon, steps), in memory that is used again."""
    batch, heads, _, horizon = q.shape
    steps = k.size(-1)
    size = max(1, _SCORES // (heads * horizon * steps))
    room = q.new_empty(min(size, batch), heads * horizon, steps)
    for start in range(0, batch, size):
        part = slice(start, min(start + size, batch))
        weight = room[: part.stop - start]
        score = weight.view(-1, horizon, steps)
        torch.bmm(q[part].flatten(0, 1).transpose(1, 2), k[part].flatten(0, 1), out=score)
        score.view(-1, heads, horizon, steps).add_((bias if len(bias) == 1 else bias[part])[:, None])
        yield part, torch.softmax(score, -1, out=score).view_as(weight)
