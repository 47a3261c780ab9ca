"""How the network's costly parts are computed: the same functions as pytorch-forecasting's modules, in less time.

Each function takes the stock network's own modules, and so its weights. Two things cost the stock network most of its
time on a CPU, and are avoided here: large intermediates that leave the caches (what is computed per variable and step
is computed piece by piece, forwards and again backwards), and operations that torch has no fast loop for (layer norm of
short rows, the drawing of dropout). Figures: `Docs/PERFORMANCE.md`. Knows nothing of data, files or HTTP.

Source of the network: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as pytorch-forecasting has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Rows that are worked on at once: of 20 variables of 32 numbers, 2 MB, which stay in the caches of two cores.
_ROWS = 768
_SKIP_EPS = 1e-5  # of torch's layer norm, as pytorch-forecasting uses it


def dropout(inputs: Tensor, p: float, *, training: bool) -> Tensor:
    """Zero each number with probability p and scale the rest up, as `torch.nn.functional.dropout` does."""
    if not training or p == 0.0:
        return inputs
    return inputs * kept(inputs.shape, p, inputs)


def kept(shape: tuple[int, ...] | torch.Size, p: float, like: Tensor) -> Tensor:
    """Factors of dropout: 0 with probability p, else 1 / (1 - p).

    On a CPU, four decisions come from each 64-bit draw, so that p is a multiple of 2**-16; torch draws a number of its
    own for each, which takes four times as long.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - p).div_(1 - p)
    size = torch.Size(shape).numel()
    bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:size]
    dropped = round(p * 2**16)
    return (bits >= dropped - 2**15).to(like.dtype).mul_(1 / (1 - dropped / 2**16)).view(shape)


def gated(layer: Any, inputs: Tensor) -> Tensor:
    """`GatedLinearUnit`: value times sigmoid of its gate; two products, so that no gradient has to be put together."""
    if layer.dropout is not None:
        inputs = dropout(inputs, layer.dropout.p, training=layer.training)
    size = layer.hidden_size
    weight, bias = layer.fc.weight, layer.fc.bias
    value = functional.linear(inputs, weight[:size], bias[:size])
    return value * torch.sigmoid(functional.linear(inputs, weight[size:], bias[size:]))


def gate_and_norm(layer: Any, inputs: Tensor, skip: Tensor) -> Tensor:
    """`GateAddNorm` without resampling: layer norm of the gated inputs plus the skip connection."""
    add_norm = layer.add_norm
    if add_norm.trainable_add:
        skip = skip * torch.sigmoid(add_norm.mask) * 2.0
    result: Tensor = add_norm.norm(gated(layer.glu, inputs) + skip)
    return result


def residual_network(network: Any, inputs: Tensor, context: Tensor | None = None) -> Tensor:
    """`GatedResidualNetwork` of equal input and output size; a context is given per window and serves all its steps."""
    hidden = network.fc1(inputs)
    if context is not None:
        hidden = hidden + network.context(context)
    return gate_and_norm(network.gate_norm, network.fc2(functional.elu(hidden)), inputs)


def resampled(layer: Any, inputs: Tensor) -> Tensor:
    """`ResampleNorm`, its interpolation and mask as one product; other networks as they are."""
    if not hasattr(layer, "trainable_add") or layer.input_size == layer.output_size:
        result: Tensor = layer(inputs)
        return result
    matrix = interpolation(layer.input_size, layer.output_size, inputs)
    if layer.trainable_add:
        matrix = matrix * (torch.sigmoid(layer.mask) * 2.0)
    normal: Tensor = layer.norm(inputs @ matrix)
    return normal


def interpolation(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """Matrix (inputs, outputs) of the linear interpolation that pytorch-forecasting uses in skip connections."""
    eye = torch.eye(inputs, dtype=torch.float32, device=like.device)
    matrix = functional.interpolate(eye.unsqueeze(1), outputs, mode="linear", align_corners=True).squeeze(1)
    return matrix.to(like.dtype)


def pinball(forecast: Tensor, labels: Tensor, quantiles: Tensor, weight: Tensor) -> Tensor:
    """Pinball loss, summed over windows and steps and averaged over the quantiles: (n_metrics,).

    Parameters
    ----------
    forecast : Tensor, (batch, horizon, n_metrics, n_quantiles)
    labels : Tensor, (batch, horizon, n_metrics)
        NaN where unknown: such steps have no part in the loss.
    quantiles : Tensor, (n_quantiles,)
    weight : Tensor, (batch, n_metrics)
        What each window counts for.

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 46 (1978).
    """
    result: Tensor = _Pinball.apply(forecast, labels, quantiles, weight)  # type: ignore[no-untyped-call]
    return result


class _Pinball(torch.autograd.Function):
    """The loss, and its slope at once: it is all that the gradient needs."""

    @staticmethod
    def forward(ctx: Any, forecast: Tensor, labels: Tensor, quantiles: Tensor, weight: Tensor) -> Tensor:
        # All in the order in which the forecast lies in memory: (n_quantiles, n_metrics, batch, horizon).
        labels = labels.permute(2, 0, 1).contiguous()
        share = torch.isfinite(labels) * (weight / len(quantiles)).t()[..., None]
        error = torch.nan_to_num(labels) - forecast.permute(3, 2, 0, 1)
        slope = torch.sub(quantiles.view(-1, 1, 1, 1), (error < 0).to(error.dtype)).mul_(share)
        ctx.save_for_backward(slope)
        return error.mul_(slope).sum(dim=(0, 2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (slope * -upstream.view(-1, 1, 1)).permute(2, 3, 1, 0), None, None, None


def select_variables(
    network: Any,
    names: tuple[list[str], list[str]],
    categories: list[Tensor],
    reals: Tensor,
    context: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Variable selection with the networks of all real variables in one product.

    Parameters
    ----------
    network : VariableSelectionNetwork
    names : (categorical names, real names)
        In the order of `categories` and of the last axis of `reals`, which is the network's own order.
    categories : list of Tensor, (batch[, steps], embedding size)
    reals : Tensor, (batch[, steps], n_reals)
    context : Tensor, (batch, 1, hidden), optional

    Returns
    -------
    Selected (batch[, steps], hidden), and weights (batch[, steps], 1, n_variables).
    """
    sizes = {network.input_sizes[name] for name in names[1]}
    if network.num_inputs <= 1 or len(sizes) != 1:  # nothing to batch
        inputs = dict(zip(names[0], categories, strict=True))
        inputs.update({name: reals[..., k : k + 1] for k, name in enumerate(names[1])})
        if context is not None:
            context = context.expand(-1, reals.size(1), -1)
        selected, weights = network(inputs, context)
        return selected, weights

    scaling = [network.prescalers[name] for name in names[1]]
    slope = torch.stack([layer.weight[:, 0] for layer in scaling])  # (n_reals, size)
    offset = torch.stack([layer.bias for layer in scaling])
    weights = _selection_logits(network.flattened_grn, categories, reals, slope, offset, context)
    weights = torch.softmax(weights, dim=-1)  # (batch[, steps], n_variables)

    n_categories = len(categories)
    grns = [network.single_variable_grns[name] for name in names[1]]
    share = weights[..., n_categories:]
    with torch.autocast(reals.device.type, enabled=False):  # in half precision, closed forms would lose their digits
        selected = _select_reals(grns, slope, offset, reals, share.to(reals.dtype))
    for k, (name, embedding) in enumerate(zip(names[0], categories, strict=True)):
        selected = selected + resampled(network.single_variable_grns[name], embedding) * weights[..., k : k + 1]
    return selected, weights.unsqueeze(-2)


def _selection_logits(
    grn: Any, categories: list[Tensor], reals: Tensor, slope: Tensor, offset: Tensor, context: Tensor | None
) -> Tensor:
    """Logits of the variable weights: the network over the concatenation of all variables, without concatenating.

    A real variable enters as `value * slope + offset`, so a matrix M behind it acts as
    `value * (M @ slope) + M @ offset`.
    """
    n_reals, size = slope.shape
    embedded = sum(embedding.size(-1) for embedding in categories)

    def project(matrix: Tensor, bias: Tensor | None) -> Tensor:
        """`matrix @ concatenation + bias`; matrix is (outputs, total size)."""
        of_reals = matrix[:, embedded:].reshape(-1, n_reals, size)  # (outputs, n_reals, size)
        constant = torch.einsum("ovs,vs->o", of_reals, offset)
        if bias is not None:
            constant = constant + bias
        result = functional.linear(reals, torch.einsum("ovs,vs->ov", of_reals, slope), constant)
        start = 0
        for embedding in categories:
            stop = start + embedding.size(-1)
            result = result + functional.linear(embedding, matrix[:, start:stop])
            start = stop
        return result

    hidden = project(grn.fc1.weight, grn.fc1.bias)
    if context is not None:
        hidden = hidden + grn.context(context)
    hidden = grn.fc2(functional.elu(hidden))
    if grn.input_size == grn.output_size:
        skip = project(torch.eye(grn.input_size, dtype=slope.dtype, device=slope.device), None)
    else:
        norm = grn.resample_norm
        skip = project(interpolation(grn.input_size, grn.output_size, slope).t(), None)
        skip = norm.norm(skip * torch.sigmoid(norm.mask) * 2.0)
    return gate_and_norm(grn.gate_norm, hidden, skip)


def _select_reals(grns: list[Any], slope: Tensor, offset: Tensor, reals: Tensor, share: Tensor) -> Tensor:
    """Sum of the real variables' gated residual networks, each weighed by its variable's share.

    A fleet is forecast from one moment, so time and gaps (or their absence) are the same numbers for all its servers:
    outside of training, what is the same for the whole batch is computed once.
    """
    common: list[int] = []
    if reals.dim() == 3 and len(reals) > 1 and not torch.is_grad_enabled() and not grns[0].training:
        common = [k for k, same in enumerate((reals == reals[:1]).all(dim=1).all(dim=0).tolist()) if same]
    own = [k for k in range(reals.size(-1)) if k not in common]
    selected = reals.new_zeros(*reals.shape[:-1], grns[0].output_size)
    if own:
        chosen = [grns[k] for k in own]
        numbers, shares = (
            (each[..., own] if common else each).reshape(-1, len(own)).t().contiguous() for each in (reals, share)
        )
        selected = select_reals(chosen, slope[own], offset[own], numbers, shares).view_as(selected)
    if common:
        chosen = [grns[k] for k in common]
        outputs = _single_outputs(chosen, slope[common], offset[common], reals[0][:, common].t().contiguous())
        selected += torch.einsum("btv,vth->bth", share[..., common], outputs)
    return selected


def select_reals(grns: list[Any], slope: Tensor, offset: Tensor, values: Tensor, share: Tensor) -> Tensor:
    """Sum of the gated residual networks of single numbers, each weighed by its variable's share.

    Parameters
    ----------
    grns : list of GatedResidualNetwork
        One per variable, of equal sizes.
    slope, offset : Tensor, (n_variables, size)
        The scaling of each number to the networks' input size.
    values, share : Tensor, (n_variables, rows)
        The numbers, and the weights of the variable selection.

    Returns
    -------
    Tensor, (rows, hidden)
    """
    parameters, eps = _stacked(grns, slope, offset)
    layer = grns[0].gate_norm.glu
    rate = layer.dropout.p if layer.dropout is not None and layer.training else 0.0
    keep = None
    if rate > 0:
        keep = kept((len(grns), grns[0].hidden_size + 1, values.size(1)), rate, values)
        keep[:, -1] = 1  # biases stay
    selected: Tensor = _SelectedReals.apply(values, share, keep, eps, *parameters)  # type: ignore[no-untyped-call]
    return selected


def _single_outputs(grns: list[Any], slope: Tensor, offset: Tensor, values: Tensor) -> Tensor:
    """What `select_reals` weighs and sums up, outside of training: (n_variables, rows, hidden)."""
    parameters, eps = _stacked(grns, slope, offset)
    outputs = []
    room = _Room(values)
    for rows in room.pieces():
        total = _forward_piece(room, values[:, rows], None, parameters)
        factor = _normalise(room, total, eps)
        outputs.append(total * factor)
    affine, shift = parameters[-2:]
    result: Tensor = torch.cat(outputs, dim=1) * affine.unsqueeze(1) + shift.unsqueeze(1)
    return result


def _stacked(grns: list[Any], slope: Tensor, offset: Tensor) -> tuple[tuple[Any, ...], float]:
    """Parameters of `_SelectedReals`, and the epsilon of its norms."""
    first = grns[0]
    width = first.output_size
    weight = torch.stack([grn.fc1.weight for grn in grns])  # (n_variables, units, size)
    bias = torch.stack([grn.fc1.bias for grn in grns])
    always = bias.new_ones(len(grns), 1)
    # One number enters each network, so its scaling and the first layer are one line per unit.
    a = torch.cat([torch.einsum("vws,vs->vw", weight, slope), always * 0], dim=1)
    b = torch.cat([torch.einsum("vws,vs->vw", weight, offset) + bias, always], dim=1)
    second = _with_bias([grn.fc2 for grn in grns])
    one = torch.cat([torch.zeros_like(second[:, :1, :-1]), always[..., None]], dim=2)
    layer = torch.cat([second, one], dim=1)
    gates = [grn.gate_norm.glu for grn in grns]
    both = _with_bias([each.fc for each in gates]).transpose(1, 2)
    value, opening = both[..., :width], both[..., width:]
    if first.input_size == first.output_size:  # the skip connection is the scaled number itself
        skip = torch.stack([slope, offset], dim=1)
        variance = None
    else:
        # Layer norm of the vector x * p + q, with p and q constant: mean and variance follow from those of p and q.
        norms = [grn.resample_norm for grn in grns]
        matrix = interpolation(first.input_size, width, slope)
        gain = torch.sigmoid(torch.stack([norm.mask for norm in norms])) * 2.0
        p, q = (slope @ matrix) * gain, (offset @ matrix) * gain
        p, q = p - p.mean(dim=-1, keepdim=True), q - q.mean(dim=-1, keepdim=True)
        variance = torch.stack([p.square().mean(dim=-1), 2 * (p * q).mean(dim=-1), q.square().mean(dim=-1)], dim=1)
        affine = torch.stack([norm.norm.weight for norm in norms])
        skip = torch.stack([p * affine, q * affine, torch.stack([norm.norm.bias for norm in norms])], dim=1)

    norms = [grn.gate_norm.add_norm.norm for grn in grns]
    affine = torch.stack([norm.weight for norm in norms])
    shift = torch.stack([norm.bias for norm in norms])
    if not torch.is_grad_enabled() and not gates[0].training:  # nothing lies between the two layers: one does
        value, opening = layer.transpose(1, 2) @ value, layer.transpose(1, 2) @ opening
        return (a, b, None, value, opening, skip, variance, affine, shift), norms[0].eps
    return (a, b, layer, value, opening, skip, variance, affine, shift), norms[0].eps


def _with_bias(layers: list[Any]) -> Tensor:
    """Weights of linear layers with their biases as a last column, (n_layers, outputs, inputs + 1)."""
    weight, bias = torch.stack([layer.weight for layer in layers]), torch.stack([layer.bias for layer in layers])
    return torch.cat([weight, bias.unsqueeze(-1)], dim=-1)


class _SelectedReals(torch.autograd.Function):
    """What `select_reals` does for every variable and row, in pieces of rows; computed again for the gradients.

    Shapes: values x and share (V, R); keep (V, S, R); slope and start of the first layer a, b (V, S); second layer
    (V, S, S); value and gate (V, S, H); skip (V, 3, H) with variance (V, 3), or (V, 2, H) without; affine and shift
    (V, H). The last of the S units is always 1: what it is multiplied by are the layers' biases.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: Tensor, keep: Tensor | None, eps: float, *parameters: Any) -> Tensor:
        ctx.save_for_backward(values, share, keep, *parameters)
        ctx.eps = eps
        affine, shift = parameters[-2:]
        selected = values.new_empty(values.size(1), affine.size(-1))
        room = _Room(values)
        for rows in room.pieces():
            total = _forward_piece(room, values[:, rows], None if keep is None else keep[..., rows], parameters)
            factor = _normalise(room, total, eps)
            total.mul_(factor.mul_(share[:, rows].unsqueeze(-1))).mul_(affine.unsqueeze(1))
            torch.sum(total, dim=0, out=selected[rows])
            selected[rows].addmm_(share[:, rows].t(), shift)
        return selected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, share, keep, *parameters = ctx.saved_tensors
        gradients = [None if each is None else torch.zeros_like(each) for each in parameters]
        for_share = torch.empty_like(share)
        for_values = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        room = _Room(values)
        with torch.autocast(values.device.type, enabled=False):
            for rows in room.pieces():
                found = _backward_piece(
                    room,
                    upstream[rows],
                    values[:, rows],
                    share[:, rows],
                    None if keep is None else keep[..., rows],
                    ctx.eps,
                    parameters,
                    for_share[:, rows],
                    None if for_values is None else for_values[:, rows],
                )
                for total, part in zip(gradients, found, strict=True):
                    if total is not None and part is not None:
                        total.add_(part)
        return for_values, for_share, None, None, *gradients


class _Room:
    """Memory for the intermediates of a piece of rows, used again for the next: fresh pages cost more than the sums."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        # On other devices than a CPU there are no caches to stay in: all rows are one piece.
        self._size = min(_ROWS, values.size(1)) if values.device.type == "cpu" else values.size(1)
        self._tensors: dict[str, Tensor] = {}
        self._rows = 0

    def pieces(self) -> Iterator[slice]:
        """The rows of each piece."""
        n_rows = self._values.size(1)
        for start in range(0, n_rows, max(self._size, 1)):
            self._rows = min(self._size, n_rows - start)
            yield slice(start, start + self._rows)

    def take(self, name: str, width: int) -> Tensor:
        """Uninitialised (n_variables, rows of the piece, width), the same memory for the same name."""
        if name not in self._tensors:
            self._tensors[name] = self._values.new_empty(self._values.size(0), self._size, width)
        tensor = self._tensors[name]
        return tensor if self._rows == self._size else tensor[:, : self._rows]

    def across(self, name: str, width: int) -> Tensor:
        """The same as (n_variables, width, rows): products of few numbers per row take half the time this way round."""
        if name not in self._tensors:
            self._tensors[name] = self._values.new_empty(self._values.size(0), width, self._size)
        tensor = self._tensors[name]
        return tensor if self._rows == self._size else tensor[..., : self._rows]


def _normalise(room: _Room, inputs: Tensor, eps: float) -> Tensor:
    """Subtract the mean of the last axis in place; give the factors that complete the layer norm, (…, 1).

    torch's own layer norm takes three times as long for rows as short as these.
    """
    size = inputs.size(-1)
    mean = torch.sum(inputs, dim=-1, keepdim=True, out=room.take("mean", 1))
    inputs.sub_(mean.div_(size))
    square = torch.mul(inputs, inputs, out=room.take("spare", size))
    factor = torch.sum(square, dim=-1, keepdim=True, out=room.take("factor", 1))
    return factor.div_(size).add_(eps).rsqrt_()


def _forward_piece(room: _Room, x: Tensor, keep: Tensor | None, parameters: Any) -> Tensor:
    """Everything up to the last layer norm; leaves in `room` what the gradients need of it."""
    a, b, second, value, gate, skip, variance, _, _ = parameters
    small, width = a.size(-1), value.size(-1)
    unit = torch.addcmul(b.unsqueeze(-1), x.unsqueeze(1), a.unsqueeze(-1), out=room.across("unit", small))
    functional.elu_(unit)
    hidden = unit if second is None else torch.bmm(second, unit, out=room.across("hidden", small))
    if keep is not None:
        hidden.mul_(keep)
    output = torch.bmm(hidden.transpose(1, 2), value, out=room.take("output", width))
    opening = torch.bmm(hidden.transpose(1, 2), gate, out=room.take("opening", width))
    output.mul_(opening.sigmoid_())
    columns = room.across("columns", skip.size(1))
    if variance is None:
        columns[:, 0] = x
    else:
        inverse = columns[:, 1]
        torch.addcmul(variance[:, 1:2], x, variance[:, :1], out=inverse)
        torch.addcmul(variance[:, 2:], x, inverse, out=inverse)
        inverse.clamp_min_(0).add_(_SKIP_EPS).rsqrt_()
        torch.mul(x, inverse, out=columns[:, 0])
    columns[:, -1] = 1
    return torch.baddbmm(output, columns.transpose(1, 2), skip, out=room.take("total", width))


def _backward_piece(
    room: _Room,
    upstream: Tensor,
    x: Tensor,
    share: Tensor,
    keep: Tensor | None,
    eps: float,
    parameters: list[Tensor],
    for_share: Tensor,
    for_x: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the parameters from one piece; those of its shares and values are written into the last two."""
    a, _, second, value, gate, skip, variance, affine, shift = parameters
    small, width = a.size(-1), value.size(-1)
    normal = _forward_piece(room, x, keep, parameters)
    unit, hidden, columns = (
        room.across("unit", small),
        room.across("hidden", small),
        room.across("columns", skip.size(1)),
    )
    output, opening = room.take("output", width), room.take("opening", width)
    factor = _normalise(room, normal, eps)
    normal.mul_(factor)
    # `gradient` is that of a variable whose share is 1, until the last line of the layer norm.
    gradient = torch.mul(upstream, affine.unsqueeze(1), out=room.take("gradient", width))
    spare = torch.mul(gradient, normal, out=room.take("spare", width))
    along = torch.sum(spare, dim=-1, keepdim=True, out=room.take("along", 1))
    torch.addmm(along.squeeze(-1), shift, upstream.t(), out=for_share)
    torch.mul(normal, share.unsqueeze(-1), out=spare)
    for_affine = spare.mul_(upstream).sum(dim=1)
    # Gradient of a layer norm: less its mean, and less its part along the normalised vector.
    mean = torch.sum(gradient, dim=-1, keepdim=True, out=room.take("mean", 1))
    gradient.sub_(mean.div_(width)).sub_(normal.mul_(along.div_(width)))
    gradient.mul_(factor.mul_(share.unsqueeze(-1)))

    for_skip = torch.bmm(columns, gradient)
    for_variance = None
    if variance is not None or for_x is not None:
        for_columns = torch.bmm(skip, gradient.transpose(1, 2), out=room.across("for_columns", skip.size(1)))
        if variance is not None:
            inverse = columns[:, 1]
            for_square = for_columns[:, 0].mul(x).add_(for_columns[:, 1]).mul_(inverse.pow(3)).mul_(-0.5)
            line = for_square * x
            for_variance = torch.stack([(line * x).sum(dim=1), line.sum(dim=1), for_square.sum(dim=1)], dim=1)
            if for_x is not None:
                slope = torch.addcmul(variance[:, 1:2], x, variance[:, :1], value=2)
                torch.addcmul(for_columns[:, 0] * inverse, for_square, slope, out=for_x)
        elif for_x is not None:
            for_x.copy_(for_columns[:, 0])

    for_amount = torch.mul(gradient, opening, out=spare)
    for_opening = gradient.sub_(for_amount).mul_(output)  # gradient x output x (1 - opening)
    for_hidden = torch.bmm(value, for_amount.transpose(1, 2), out=room.across("for_hidden", small))
    for_hidden.baddbmm_(gate, for_opening.transpose(1, 2))
    if keep is not None:
        for_hidden.mul_(keep)
    for_unit = torch.bmm(second.transpose(1, 2), for_hidden, out=room.across("for_unit", small))
    for_second = torch.bmm(for_hidden, unit.transpose(1, 2))
    for_unit.mul_(unit.clamp_max_(0).add_(1))  # the slope of elu, from its value
    if for_x is not None:
        for_x.add_((for_unit * a.unsqueeze(-1)).sum(dim=1))
    return (
        torch.mul(for_unit, x.unsqueeze(1), out=unit).sum(dim=-1),
        for_unit.sum(dim=-1),
        for_second,
        torch.bmm(hidden, for_amount),
        torch.bmm(hidden, for_opening),
        for_skip,
        for_variance,
        for_affine,
        share @ upstream,
    )
