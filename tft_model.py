"""The TFT network: pytorch-forecasting's weights, faster execution.

`FastTemporalFusionTransformer` has the parameters of pytorch-forecasting's `TemporalFusionTransformer` under the same
names and shapes, and computes the same function; the stock network is its oracle in `tests/test_tft_model.py`. What
makes it faster, and by how much, stands in `Docs/PERFORMANCE.md`. Knows nothing of files or HTTP.

Source: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as implemented in pytorch-forecasting 1.8.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from pytorch_forecasting.models.temporal_fusion_transformer import TemporalFusionTransformer
from torch import Tensor, nn
from torch.nn import functional

from data_contract import METRIC_COLUMNS
from model_inputs import (
    ANCHORS,
    CATEGORICALS,
    DECODER_REALS,
    ENCODER_CATEGORICALS,
    ENCODER_REALS,
    REALS,
    STATIC_CATEGORICALS,
    STATIC_REALS,
)
from tft_features import FeatureSpec, Windows

# Finite in half precision, and far enough below any score that the softmax gives 0.
_MASK_BIAS = -3e4


@dataclass(frozen=True)
class NetworkConfig:
    """Size of the network; saved in a model's `config.json`."""

    hidden_size: int = 32
    attention_heads: int = 4
    dropout: float = 0.1
    lstm_layers: int = 1
    hidden_continuous_size: int = 8

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> NetworkConfig:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else."""
        return cls(
            hidden_size=int(content["hidden_size"]),
            attention_heads=int(content["attention_heads"]),
            dropout=float(content["dropout"]),
            lstm_layers=int(content["lstm_layers"]),
            hidden_continuous_size=int(content["hidden_continuous_size"]),
        )


class FastTemporalFusionTransformer(TemporalFusionTransformer):  # type: ignore[misc]  # untyped library
    """Drop-in for pytorch-forecasting's `TemporalFusionTransformer`: same `state_dict`, same outputs, less work.

    - The small networks of all real variables run as one batched product. Each sees one number, so the scaling to
      `hidden_continuous_size` folds into the layers behind it, and the layer norm of its skip connection has a closed
      form.
    - The weights of the variable selection come from the numbers themselves, not from a long concatenation.
    - Static context is multiplied once per window instead of once per step.
    - Sequences are packed only where their lengths differ.
    - All attention heads are computed in one product.
    """

    def forward(self, x: dict[str, Tensor]) -> Any:
        """Forecast.

        Parameters
        ----------
        x : dict of Tensor
            `encoder_cat`, `encoder_cont`, `decoder_cat`, `decoder_cont`: (batch, steps, variables);
            `encoder_lengths`, `decoder_lengths`: (batch,). With `target_scale`, predictions are re-scaled as
            pytorch-forecasting does; without, they are the raw outputs.

        Returns
        -------
        The named tuple of pytorch-forecasting: `prediction` is a list of (batch, horizon, n_quantiles), one per
        target; attention and variable-selection weights are there for explanations.
        """
        encoder_lengths, decoder_lengths = x["encoder_lengths"], x["decoder_lengths"]
        encoder_steps = int(encoder_lengths.max())
        encoder = slice(0, encoder_steps)
        categorical = torch.cat([x["encoder_cat"], x["decoder_cat"]], dim=1)
        real = torch.cat([x["encoder_cont"], x["decoder_cont"]], dim=1)
        decoder = slice(encoder_steps, real.size(1))
        embedded: dict[str, Tensor] = self.input_embeddings(categorical)
        column = {name: k for k, name in enumerate(self.hparams.x_reals)}

        def select(network: Any, names: tuple[list[str], list[str]], steps: Any, context: Tensor | None) -> Any:
            categories = [embedded[name][:, steps] for name in names[0]]
            reals = real[:, steps][..., [column[name] for name in names[1]]]
            return select_variables(network, names, categories, reals, context)

        if self.static_variables:
            static, static_weights = select(
                self.static_variable_selection, (self.hparams.static_categoricals, self.hparams.static_reals), 0, None
            )
        else:
            static = real.new_zeros(real.size(0), self.hparams.hidden_size)
            static_weights = real.new_zeros(real.size(0), 0)
        context = self.static_context_variable_selection(static)[:, None]  # (batch, 1, hidden)
        past, past_weights = select(
            self.encoder_variable_selection,
            (self.hparams.time_varying_categoricals_encoder, self.hparams.time_varying_reals_encoder),
            encoder,
            context,
        )
        future, future_weights = select(
            self.decoder_variable_selection,
            (self.hparams.time_varying_categoricals_decoder, self.hparams.time_varying_reals_decoder),
            decoder,
            context,
        )

        layers = self.hparams.lstm_layers
        state = (
            self.static_context_initial_hidden_lstm(static).expand(layers, -1, -1).contiguous(),
            self.static_context_initial_cell_lstm(static).expand(layers, -1, -1).contiguous(),
        )
        past_output, state = _recur(self.lstm_encoder, past, state, encoder_lengths)
        future_output, _ = _recur(self.lstm_decoder, future, state, decoder_lengths)
        # The gate and norm behind the LSTM are the same for encoder and decoder.
        selected = torch.cat([past, future], dim=1)
        recurrent = self.post_lstm_gate_encoder(torch.cat([past_output, future_output], dim=1))
        recurrent = self.post_lstm_add_norm_encoder(recurrent, selected)

        enriched = self.static_enrichment(recurrent, self.static_context_enrichment(static)[:, None])
        attended, attention = attend(
            self.multihead_attn,
            enriched[:, decoder],
            enriched,
            self.get_attention_mask(encoder_lengths=encoder_lengths, decoder_lengths=decoder_lengths),
        )
        output = self.pos_wise_ff(self.post_attn_gate_norm(attended, enriched[:, decoder]))
        output = self.pre_output_gate_norm(output, recurrent[:, decoder])
        prediction = [layer(output) for layer in self.output_layer] if self.n_targets > 1 else self.output_layer(output)
        if "target_scale" in x:
            prediction = self.transform_output(prediction, target_scale=x["target_scale"])
        return self.to_network_output(
            prediction=prediction,
            encoder_attention=attention[..., encoder],
            decoder_attention=attention[..., encoder_steps:],
            static_variables=static_weights,
            encoder_variables=past_weights,
            decoder_variables=future_weights,
            decoder_lengths=decoder_lengths,
            encoder_lengths=encoder_lengths,
        )


def _recur(
    lstm: Any, inputs: Tensor, state: tuple[Tensor, Tensor], lengths: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run an LSTM, packed only if the sequences' lengths differ."""
    if bool((lengths == inputs.size(1)).all()):
        result = nn.LSTM.forward(lstm, inputs, state)
    else:
        result = lstm(inputs, state, lengths=lengths, enforce_sorted=False)
    output, (hidden, cell) = result
    return output, (hidden, cell)


def attend(attention: Any, query: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Interpretable multi-head attention with all heads at once; the value head is shared.

    Parameters
    ----------
    attention : InterpretableMultiHeadAttention
    query : Tensor, (batch, horizon, hidden)
    keys : Tensor, (batch, steps, hidden)
    mask : Tensor of bool, (batch, horizon, steps)
        True where a query must not look.

    Returns
    -------
    Output (batch, horizon, hidden) and weights (batch, horizon, heads, steps).
    """
    heads, width = attention.n_head, attention.d_k

    def project(layers: Any, inputs: Tensor) -> Tensor:
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        return functional.linear(inputs, weight, bias).view(*inputs.shape[:2], heads, width).transpose(1, 2)

    score = project(attention.q_layers, query) @ project(attention.k_layers, keys).transpose(-1, -2)
    score = (score / width**0.5).masked_fill(mask[:, None], attention.mask_bias)
    weights = torch.softmax(score, dim=-1)  # (batch, heads, horizon, steps)
    values = attention.v_layer(keys)
    if attention.training and attention.dropout.p > 0:
        output = attention.dropout(weights @ values[:, None]).mean(dim=1)  # each head has its own dropout
    else:
        output = weights.mean(dim=1) @ values
    return attention.dropout(attention.w_h(output)), weights.transpose(1, 2)


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
    weights = _selection_weights(network.flattened_grn, categories, reals, slope, offset, context)
    weights = torch.softmax(weights, dim=-1)  # (batch[, steps], n_variables)

    n_categories = len(categories)
    flat = reals.reshape(-1, reals.size(-1))  # (rows, n_reals)
    grns = [network.single_variable_grns[name] for name in names[1]]
    outputs = _single_variable_networks(grns, flat.t(), slope, offset)  # (n_reals, rows, hidden)
    share = weights[..., n_categories:].reshape(flat.shape)
    # Not as a product of matrices: one tiny product per row takes longer than the sum.
    selected = (outputs * share.t().unsqueeze(-1)).sum(dim=0).reshape(*reals.shape[:-1], -1)
    for k, (name, embedding) in enumerate(zip(names[0], categories, strict=True)):
        selected = selected + network.single_variable_grns[name](embedding) * weights[..., k : k + 1]
    return selected, weights.unsqueeze(-2)


def _selection_weights(
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
        skip = project(_interpolation(grn.input_size, grn.output_size, slope).t(), None)
        skip = norm.norm(skip * torch.sigmoid(norm.mask) * 2.0)
    logits: Tensor = grn.gate_norm(hidden, skip)
    return logits


def _single_variable_networks(grns: list[Any], values: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Gated residual networks of single numbers, all in one.

    Parameters
    ----------
    grns : list of GatedResidualNetwork
        One per variable, of equal sizes.
    values : Tensor, (n_variables, rows)
    slope, offset : Tensor, (n_variables, size)
        The scaling of each number to the networks' input size.

    Returns
    -------
    Tensor, (n_variables, rows, hidden)
    """
    first = grns[0]
    column = values.unsqueeze(-1)  # (n_variables, rows, 1)
    weight = torch.stack([grn.fc1.weight for grn in grns])  # (n_variables, width, size)
    bias = torch.stack([grn.fc1.bias for grn in grns])
    hidden = torch.baddbmm(
        (torch.einsum("vws,vs->vw", weight, offset) + bias).unsqueeze(1),
        column,
        torch.einsum("vws,vs->vw", weight, slope).unsqueeze(1),
    )
    weight = torch.stack([grn.fc2.weight for grn in grns])
    bias = torch.stack([grn.fc2.bias for grn in grns])
    hidden = torch.baddbmm(bias.unsqueeze(1), functional.elu(hidden), weight.transpose(1, 2))
    gate = [grn.gate_norm.glu for grn in grns]
    if gate[0].dropout is not None:
        hidden = gate[0].dropout(hidden)
    weight = torch.stack([layer.fc.weight for layer in gate])
    bias = torch.stack([layer.fc.bias for layer in gate])
    hidden = functional.glu(torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2)), dim=-1)

    if first.input_size == first.output_size:
        total = torch.baddbmm(hidden + offset.unsqueeze(1), column, slope.unsqueeze(1))
    else:
        # Layer norm of the vector value * p + q, (p, q constant): its mean and variance follow from those of p and q.
        norms = [grn.resample_norm for grn in grns]
        matrix = _interpolation(first.input_size, first.output_size, slope)
        gain = torch.stack([torch.sigmoid(norm.mask) * 2.0 for norm in norms])
        p, q = (slope @ matrix) * gain, (offset @ matrix) * gain
        p, q = p - p.mean(dim=-1, keepdim=True), q - q.mean(dim=-1, keepdim=True)
        variance = (
            values.square() * p.square().mean(dim=-1, keepdim=True)
            + values * (2 * (p * q).mean(dim=-1, keepdim=True))
            + q.square().mean(dim=-1, keepdim=True)
        )
        inverse = torch.rsqrt(variance.clamp_min(0) + norms[0].norm.eps)
        affine = torch.stack([norm.norm.weight for norm in norms])
        shift = torch.stack([norm.norm.bias for norm in norms])
        total = torch.baddbmm(
            hidden,
            torch.stack([values * inverse, inverse, torch.ones_like(inverse)], dim=-1),
            torch.stack([p * affine, q * affine, shift], dim=1),
        )
    norms = [grn.gate_norm.add_norm.norm for grn in grns]
    normal = functional.layer_norm(total, total.shape[-1:], eps=norms[0].eps)
    affine = torch.stack([norm.weight for norm in norms]).unsqueeze(1)
    shift = torch.stack([norm.bias for norm in norms]).unsqueeze(1)
    return torch.addcmul(shift, normal, affine)


def _interpolation(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """Matrix (inputs, outputs) of the linear interpolation that pytorch-forecasting uses in skip connections."""
    eye = torch.eye(inputs, dtype=torch.float32, device=like.device)
    matrix = functional.interpolate(eye.unsqueeze(1), outputs, mode="linear", align_corners=True).squeeze(1)
    return matrix.to(like.dtype)


def ordered_quantiles(raw: Tensor) -> Tensor:
    """Quantiles that never cross: the median and, to either side of it, softplus steps summed up.

    Parameters
    ----------
    raw : Tensor, (…, n_quantiles)
        Outputs of the network, n_quantiles odd.

    Returns
    -------
    Tensor of the same shape, not decreasing along the last axis.
    """
    middle = raw.size(-1) // 2
    median = raw[..., middle : middle + 1]
    above = median + torch.cumsum(functional.softplus(raw[..., middle + 1 :]), dim=-1)
    below = median - torch.cumsum(functional.softplus(raw[..., :middle].flip(-1)), dim=-1).flip(-1)
    return torch.cat([below, median, above], dim=-1)


def network_arguments(spec: FeatureSpec, config: NetworkConfig) -> dict[str, Any]:
    """Arguments of pytorch-forecasting's network, the stock one or ours, for these features and this size."""
    n_metrics, n_quantiles = len(METRIC_COLUMNS), len(spec.quantiles)
    return {
        "hidden_size": config.hidden_size,
        "lstm_layers": config.lstm_layers,
        "dropout": config.dropout,
        "attention_head_size": config.attention_heads,
        "hidden_continuous_size": config.hidden_continuous_size,
        "output_size": [n_quantiles + len(ANCHORS)] * n_metrics,
        "loss": MultiLoss([QuantileLoss(list(spec.quantiles)) for _ in METRIC_COLUMNS]),
        "logging_metrics": nn.ModuleList(),
        "max_encoder_length": spec.encoder_steps,
        "static_categoricals": list(STATIC_CATEGORICALS),
        "static_reals": list(STATIC_REALS),
        "time_varying_categoricals_encoder": list(ENCODER_CATEGORICALS),
        "time_varying_categoricals_decoder": [],
        "time_varying_reals_encoder": list(ENCODER_REALS),
        "time_varying_reals_decoder": list(DECODER_REALS),
        "x_reals": list(REALS),
        "x_categoricals": list(CATEGORICALS),
        "embedding_sizes": {
            "profile": (len(spec.profiles) + 1, 4),
            "server_id": (len(spec.server_ids) + 1, 8),
            "state": (len(spec.states) + 1, 4),
        },
        "mask_bias": _MASK_BIAS,
    }


def build_network(spec: FeatureSpec, config: NetworkConfig) -> FastTemporalFusionTransformer:
    """Network with fresh random weights."""
    with warnings.catch_warnings():  # the library saves its loss as a hyperparameter, and warns of that itself
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        return FastTemporalFusionTransformer(**network_arguments(spec, config))


def forecast_scaled(network: Any, windows: Windows) -> Tensor:
    """Quantiles in scaled space, (batch, horizon, n_metrics, n_quantiles), never decreasing along the last axis.

    The network's outputs per metric and step are quantiles relative to an anchor, and one logit per anchor: the anchor
    is the mean of the window's naive forecasts, weighed by the network itself.
    """
    raw = torch.stack(network(windows.inputs).prediction, dim=2)
    n_quantiles = raw.size(-1) - len(ANCHORS)
    anchor = (torch.softmax(raw[..., n_quantiles:], dim=-1) * windows.anchors).sum(dim=-1, keepdim=True)
    return anchor + ordered_quantiles(raw[..., :n_quantiles])
