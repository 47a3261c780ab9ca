"""The TFT network as it learns: pytorch-forecasting's own class, computed faster.

`FastTemporalFusionTransformer` has the parameters of pytorch-forecasting's `TemporalFusionTransformer` under the same
names and shapes, and computes the same function; the stock network is its oracle in `tests/test_tft_model.py`. What is
served is forecast by a network that takes the same weights and does not import the library (`tft_model.py`). Knows
nothing of files or HTTP.

Source: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as implemented in pytorch-forecasting 1.8.
"""

from __future__ import annotations

import warnings
from typing import Any

from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from pytorch_forecasting.models.temporal_fusion_transformer import TemporalFusionTransformer
from torch import Tensor, nn

from data_contract import METRIC_COLUMNS
from tft_execution import decoded, raw_outputs
from tft_features import FeatureSpec
from tft_model import NetworkConfig, network_sizes


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
        output, explanation = decoded(self, x, explain=True)
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
        """Raw outputs of all targets, as `tft_execution.raw_outputs` gives them."""
        return raw_outputs(self, x)


def network_arguments(spec: FeatureSpec, config: NetworkConfig) -> dict[str, Any]:
    """Arguments of pytorch-forecasting's network, the stock one or ours, for these features and this size."""
    return {
        **network_sizes(spec, config),
        "loss": MultiLoss([QuantileLoss(list(spec.quantiles)) for _ in METRIC_COLUMNS]),
        "logging_metrics": nn.ModuleList(),
    }


def build_network(spec: FeatureSpec, config: NetworkConfig) -> FastTemporalFusionTransformer:
    """Network with fresh random weights."""
    with warnings.catch_warnings():  # the library saves its loss as a hyperparameter, and warns of that itself
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        return FastTemporalFusionTransformer(**network_arguments(spec, config))
