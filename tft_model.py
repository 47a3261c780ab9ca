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
from model_inputs import CATEGORICALS, ENCODER_CATEGORICALS, STATIC_CATEGORICALS
from quantile_calibration import QuantileCalibration
from tft_attention import attend
from tft_features import FeatureSpec, Windows
from tft_kernels import gate_and_norm, gated, residual_network, select_variables

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

    - The small networks of all real variables run as one batched product, in pieces that stay in the caches. Each sees
      one number, so the scaling to `hidden_continuous_size` folds into the layers behind it, and the layer norm of its
      skip connection has a closed form.
    - The weights of the variable selection come from the numbers themselves, not from a long concatenation.
    - Static context is multiplied once per window instead of once per step.
    - Sequences are packed only where their lengths differ.
    - All attention heads are computed in one product, fused where nobody asks for the weights.
    - Dropout draws four decisions at a time.
    """

    def forward(self, x: dict[str, Tensor]) -> Any:
        """Forecast, with explanations.

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
        output, explanation = self._decode(x, explain=True)
        prediction = [layer(output) for layer in self.output_layer] if self.n_targets > 1 else self.output_layer(output)
        if "target_scale" in x:
            prediction = self.transform_output(prediction, target_scale=x["target_scale"])
        return self.to_network_output(
            prediction=prediction,
            decoder_lengths=x["decoder_lengths"],
            encoder_lengths=x["encoder_lengths"],
            **explanation,
        )

    def raw_outputs(self, x: dict[str, Tensor]) -> Tensor:
        """Raw outputs of several targets of equal size, (batch, horizon, n_targets, n_outputs), and nothing else.

        In memory each output lies by itself, because a dozen numbers in a row are too few for fast loops over them.
        The numbers of `forward`, without the attention weights, whose making costs more than their use.
        """
        output, _ = self._decode(x, explain=False)
        weight = torch.stack([layer.weight for layer in self.output_layer], dim=1)  # (n_outputs, n_targets, hidden)
        bias = torch.stack([layer.bias for layer in self.output_layer], dim=1)
        raw = torch.addmm(bias.view(-1, 1), weight.flatten(0, 1), output.flatten(0, 1).t())
        return raw.view(*bias.shape, *output.shape[:2]).permute(2, 3, 1, 0)

    def _embedded(self, name: str, categorical: Tensor) -> Tensor:
        """Embedding of a category, or of a group of them, where it is used: the stock network embeds all everywhere."""
        layer = self.input_embeddings
        group = layer.categorical_groups.get(name)
        place = layer.x_categoricals.index
        embedded: Tensor = layer[name](categorical[..., [place(each) for each in group] if group else place(name)])
        return embedded

    def _decode(self, x: dict[str, Tensor], *, explain: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What the output layers read, (batch, horizon, hidden), and the weights that explain it."""
        encoder_lengths, decoder_lengths = x["encoder_lengths"], x["decoder_lengths"]
        encoder_steps = int(encoder_lengths.max())
        past_inputs, future_inputs = (x["encoder_cat"], x["encoder_cont"]), (x["decoder_cat"], x["decoder_cont"])
        encoder, decoder = slice(0, encoder_steps), slice(encoder_steps, None)
        column = {name: k for k, name in enumerate(self.hparams.x_reals)}

        def select(
            network: Any, names: tuple[list[str], list[str]], inputs: tuple[Tensor, Tensor], context: Tensor | None
        ) -> Any:
            categories = [self._embedded(name, inputs[0]) for name in names[0]]
            reals = inputs[1][..., [column[name] for name in names[1]]]
            return select_variables(network, names, categories, reals, context)

        if self.static_variables:
            static, static_weights = select(
                self.static_variable_selection,
                (self.hparams.static_categoricals, self.hparams.static_reals),
                (past_inputs[0][:, 0], past_inputs[1][:, 0]),
                None,
            )
        else:
            static = past_inputs[1].new_zeros(len(encoder_lengths), self.hparams.hidden_size)
            static_weights = static.new_zeros(len(encoder_lengths), 0)
        context = self.static_context_variable_selection(static)[:, None]  # (batch, 1, hidden)
        past, past_weights = select(
            self.encoder_variable_selection,
            (self.hparams.time_varying_categoricals_encoder, self.hparams.time_varying_reals_encoder),
            past_inputs,
            context,
        )
        future, future_weights = select(
            self.decoder_variable_selection,
            (self.hparams.time_varying_categoricals_decoder, self.hparams.time_varying_reals_decoder),
            future_inputs,
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
        recurrent = gated(self.post_lstm_gate_encoder, torch.cat([past_output, future_output], dim=1))
        recurrent = self.post_lstm_add_norm_encoder(recurrent, selected)

        enriched = residual_network(self.static_enrichment, recurrent, self.static_context_enrichment(static)[:, None])
        same = bool((encoder_lengths == encoder_lengths[0]).all() and (decoder_lengths == decoder_lengths[0]).all())
        masked = slice(0, 1) if same else slice(None)  # one mask for all, where it is the same for all
        mask = self.get_attention_mask(encoder_lengths=encoder_lengths[masked], decoder_lengths=decoder_lengths[masked])
        ahead = enriched[:, decoder]
        attended, attention = attend(self.multihead_attn, ahead, enriched, mask, explain=explain)
        output = gate_and_norm(self.post_attn_gate_norm, attended, ahead)
        output = residual_network(self.pos_wise_ff, output)
        output = gate_and_norm(self.pre_output_gate_norm, output, recurrent[:, decoder])
        explanation = {
            "static_variables": static_weights,
            "encoder_variables": past_weights,
            "decoder_variables": future_weights,
        }
        if attention is not None:
            explanation["encoder_attention"] = attention[..., encoder]
            explanation["decoder_attention"] = attention[..., encoder_steps:]
        return output, explanation


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


def network_arguments(spec: FeatureSpec, config: NetworkConfig) -> dict[str, Any]:
    """Arguments of pytorch-forecasting's network, the stock one or ours, for these features and this size."""
    n_metrics, n_quantiles, layout = len(METRIC_COLUMNS), len(spec.quantiles), spec.layout
    return {
        "hidden_size": config.hidden_size,
        "lstm_layers": config.lstm_layers,
        "dropout": config.dropout,
        "attention_head_size": config.attention_heads,
        "hidden_continuous_size": config.hidden_continuous_size,
        "output_size": [(n_quantiles + len(layout.anchors)) * layout.patch] * n_metrics,
        "loss": MultiLoss([QuantileLoss(list(spec.quantiles)) for _ in METRIC_COLUMNS]),
        "logging_metrics": nn.ModuleList(),
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


def build_network(spec: FeatureSpec, config: NetworkConfig) -> FastTemporalFusionTransformer:
    """Network with fresh random weights."""
    with warnings.catch_warnings():  # the library saves its loss as a hyperparameter, and warns of that itself
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        return FastTemporalFusionTransformer(**network_arguments(spec, config))


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
