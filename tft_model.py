"""The TFT network as it serves: pytorch-forecasting's weights, and how its outputs become quantiles.

`ServedNetwork` takes the weights that `training_network.py` has learned, under the same names, and forecasts without
the library, whose import alone costs 160 MB of memory and two seconds. Knows nothing of files or HTTP.

Source: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as implemented in pytorch-forecasting 1.8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_contract import METRIC_COLUMNS
from model_inputs import CATEGORICALS, ENCODER_CATEGORICALS, STATIC_CATEGORICALS
from network_parts import (
    AddNorm,
    Attention,
    Embeddings,
    GateAddNorm,
    GatedLinearUnit,
    GatedResidualNetwork,
    VariableSelection,
)
from quantile_calibration import QuantileCalibration
from tft_execution import decoded, raw_outputs
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


class ServedNetwork(nn.Module):
    """Holds trained weights and forecasts with them; it cannot learn.

    Parameters
    ----------
    sizes : dict
        What `network_sizes` gives.
    """

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.hparams = given = SimpleNamespace(**sizes)
        hidden, continuous, layers = given.hidden_size, given.hidden_continuous_size, given.lstm_layers
        self.static_variables = [*given.static_categoricals, *given.static_reals]
        self.input_embeddings = Embeddings(given.embedding_sizes, given.x_categoricals, hidden)
        self.prescalers = nn.ModuleDict({name: nn.Linear(1, continuous) for name in given.x_reals})

        def selection(categoricals: list[str], reals: list[str], *, context: bool) -> VariableSelection:
            embedded = {name: self.input_embeddings.size(name) for name in categoricals}
            scaled = {name: self.prescalers[name] for name in reals}
            return VariableSelection(embedded, scaled, continuous, hidden, context=context)

        self.static_variable_selection = selection(given.static_categoricals, given.static_reals, context=False)
        self.encoder_variable_selection = selection(
            given.time_varying_categoricals_encoder, given.time_varying_reals_encoder, context=True
        )
        self.decoder_variable_selection = selection(
            given.time_varying_categoricals_decoder, given.time_varying_reals_decoder, context=True
        )
        self.static_context_variable_selection = GatedResidualNetwork(hidden, hidden, hidden)
        self.static_context_initial_hidden_lstm = GatedResidualNetwork(hidden, hidden, hidden)
        self.static_context_initial_cell_lstm = GatedResidualNetwork(hidden, hidden, hidden)
        self.static_context_enrichment = GatedResidualNetwork(hidden, hidden, hidden)
        self.lstm_encoder = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.lstm_decoder = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.post_lstm_gate_encoder = self.post_lstm_gate_decoder = GatedLinearUnit(hidden, hidden)
        self.post_lstm_add_norm_encoder = self.post_lstm_add_norm_decoder = AddNorm(hidden)
        self.static_enrichment = GatedResidualNetwork(hidden, hidden, hidden, context=True)
        self.multihead_attn = Attention(given.attention_head_size, hidden, given.mask_bias)
        self.post_attn_gate_norm = GateAddNorm(hidden, hidden)
        self.pos_wise_ff = GatedResidualNetwork(hidden, hidden, hidden)
        self.pre_output_gate_norm = GateAddNorm(hidden, hidden)
        self.output_layer = nn.ModuleList([nn.Linear(hidden, outputs) for outputs in given.output_size])
        self.eval()

    def train(self, mode: bool = True) -> ServedNetwork:
        """Refuse to learn: there is no dropout here, so it would learn something else than the network it serves.

        Raises
        ------
        NotImplementedError
            If asked to learn.
        """
        if mode:
            raise NotImplementedError("learning is what `training_network.build_network` gives a network for")
        return super().train(mode)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Any]:
        """Forecast, with explanations: what pytorch-forecasting's network gives, by the same names."""
        output, explanation = decoded(self, x, explain=True)
        return {"prediction": [layer(output) for layer in self.output_layer], **explanation}

    def raw_outputs(self, x: dict[str, Tensor]) -> Tensor:
        """Raw outputs of all targets, as `tft_execution.raw_outputs` gives them."""
        return raw_outputs(self, x)

    def get_attention_mask(self, encoder_lengths: Tensor, decoder_lengths: Tensor) -> Tensor:
        """Where a step of the horizon must not look, (batch, horizon, steps): padding, itself, and what comes later."""
        past = torch.arange(int(encoder_lengths.max())) >= encoder_lengths[:, None]
        ahead = torch.arange(int(decoder_lengths.max()))
        later = (ahead >= ahead[:, None]).expand(len(past), -1, -1)
        return torch.cat([past[:, None].expand(-1, len(ahead), -1), later], dim=2)


def network_sizes(spec: FeatureSpec, config: NetworkConfig) -> dict[str, Any]:
    """What decides a network's weights and inputs, by the names of pytorch-forecasting's arguments."""
    n_metrics, n_quantiles, layout = len(METRIC_COLUMNS), len(spec.quantiles), spec.layout
    return {
        "hidden_size": config.hidden_size,
        "lstm_layers": config.lstm_layers,
        "dropout": config.dropout,
        "attention_head_size": config.attention_heads,
        "hidden_continuous_size": config.hidden_continuous_size,
        "output_size": [(n_quantiles + len(layout.anchors)) * layout.patch] * n_metrics,
        "max_encoder_length": layout.encoder_positions,
        "static_categoricals": list(STATIC_CATEGORICALS),
        "static_reals": list(layout.static_reals),
        "time_varying_categoricals_encoder": list(ENCODER_CATEGORICALS),
        "time_varying_categoricals_decoder": [],
        "time_varying_reals_encoder": list(layout.encoder_reals),
        "time_varying_reals_decoder": list(layout.decoder_reals),
        "x_reals": list(layout.reals),
        "x_categoricals": list(CATEGORICALS),
        "embedding_sizes": {
            "profile": (len(spec.profiles) + 1, 4),
            "server_id": (len(spec.server_ids) + 1, 8),
            "state": (len(spec.states) + 1, 4),
        },
        "mask_bias": _MASK_BIAS,
    }


def served_network(spec: FeatureSpec, config: NetworkConfig) -> ServedNetwork:
    """Network that waits for its weights."""
    return ServedNetwork(network_sizes(spec, config))


def ordered_quantiles(raw: Tensor, start: Tensor | None = None) -> Tensor:
    """Quantiles that never cross: the median and, to either side of it, softplus steps summed up.

    Parameters
    ----------
    raw : Tensor, (…, n_quantiles)
        Outputs of the network, n_quantiles odd.
    start : Tensor, (…), optional
        What is added to all of them.

    Returns
    -------
    Tensor of the same shape, not decreasing along the last axis.
    """
    rows = raw.movedim(-1, 0).unbind()
    middle = len(rows) // 2
    median = rows[middle] if start is None else rows[middle] + start
    quantiles = [median]
    for row in rows[middle + 1 :]:
        quantiles.append(quantiles[-1] + functional.softplus(row))
    for row in reversed(rows[:middle]):
        quantiles.insert(0, quantiles[0] - functional.softplus(row))
    return torch.stack(quantiles).movedim(0, -1)


def forecast_scaled(network: Any, windows: Windows, calibration: QuantileCalibration | None = None) -> Tensor:
    """Quantiles in scaled space, (batch, horizon, n_metrics, n_quantiles), never decreasing along the last axis.

    The network's outputs per metric and step are quantiles relative to an anchor, and one logit per anchor: the anchor
    is the mean of the window's naive forecasts, weighed by the network itself. With a calibration, the quantiles lie as
    far from the median as measurements were found to.
    """
    raw = by_step(network.raw_outputs(windows.inputs), windows.anchors.size(1))
    # From here on as it lies in memory, (n_outputs, n_metrics, batch, horizon): any other order would be a copy.
    anchors = windows.anchors.size(-1)
    quantiles, logits = torch.split(raw.permute(3, 2, 0, 1), [raw.size(-1) - anchors, anchors])
    share = torch.softmax(logits, dim=0)
    anchor = (share * windows.anchors.permute(3, 2, 0, 1).contiguous()).sum(dim=0)
    forecast = ordered_quantiles(quantiles.movedim(0, -1), anchor).permute(1, 2, 0, 3)
    return forecast if calibration is None else calibration.applied(forecast)


def by_step(raw: Tensor, steps: int) -> Tensor:
    """Outputs of each position for all steps of its patch, as outputs of each step.

    Parameters
    ----------
    raw : Tensor, (batch, positions, n_targets, n_outputs × patch)
        The steps of a patch lie side by side.
    steps : int
        Steps of the horizon.

    Returns
    -------
    Tensor, (batch, steps, n_targets, n_outputs)
        In memory each output of each target lies by itself, as `raw_outputs` gives them.
    """
    batch, positions, targets, outputs = raw.shape
    patch = steps // positions
    apart = raw.permute(3, 2, 0, 1).reshape(outputs // patch, patch, targets, batch, positions)
    return apart.permute(0, 2, 3, 4, 1).reshape(outputs // patch, targets, batch, steps).permute(2, 3, 1, 0)
