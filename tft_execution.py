"""How the TFT network is computed: the weights of pytorch-forecasting's modules, faster execution.

The functions take a network that holds those weights under the library's names: the library's own class, which learns
(`training_network.py`), or the one that serves without the library (`tft_model.py`). What makes them fast, and by how
much, stands in `Docs/PERFORMANCE.md`. Knows nothing of files or HTTP.

Source: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, as implemented in pytorch-forecasting 1.8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tft_attention import attend
from tft_kernels import gate_and_norm, gated, residual_network, select_variables


def raw_outputs(network: Any, x: dict[str, Tensor]) -> Tensor:
    """Raw outputs of several targets of equal size, (batch, horizon, n_targets, n_outputs), and nothing else.

    In memory each output lies by itself, because a dozen numbers in a row are too few for fast loops over them.
    The numbers of `forward`, without the attention weights, whose making costs more than their use.
    """
    output, _ = decoded(network, x, explain=False)
    weight = torch.stack([layer.weight for layer in network.output_layer], dim=1)  # (n_outputs, n_targets, hidden)
    bias = torch.stack([layer.bias for layer in network.output_layer], dim=1)
    raw = torch.addmm(bias.view(-1, 1), weight.flatten(0, 1), output.flatten(0, 1).t())
    return raw.view(*bias.shape, *output.shape[:2]).permute(2, 3, 1, 0)


def _embedded(network: Any, name: str, categorical: Tensor) -> Tensor:
    """Embedding of a category, or of a group of them, where it is used: the stock network embeds all everywhere."""
    layer = network.input_embeddings
    group = layer.categorical_groups.get(name)
    place = layer.x_categoricals.index
    embedded: Tensor = layer[name](categorical[..., [place(each) for each in group] if group else place(name)])
    return embedded


def decoded(network: Any, x: dict[str, Tensor], *, explain: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """What the output layers read, (batch, horizon, hidden), and the weights that explain it."""
    encoder_lengths, decoder_lengths = x["encoder_lengths"], x["decoder_lengths"]
    encoder_steps = int(encoder_lengths.max())
    past_inputs, future_inputs = (x["encoder_cat"], x["encoder_cont"]), (x["decoder_cat"], x["decoder_cont"])
    encoder, decoder = slice(0, encoder_steps), slice(encoder_steps, None)
    column = {name: k for k, name in enumerate(network.hparams.x_reals)}

    def select(
        selection: Any, names: tuple[list[str], list[str]], inputs: tuple[Tensor, Tensor], context: Tensor | None
    ) -> Any:
        categories = [_embedded(network, name, inputs[0]) for name in names[0]]
        reals = inputs[1][..., [column[name] for name in names[1]]]
        return select_variables(selection, names, categories, reals, context)

    if network.static_variables:
        static, static_weights = select(
            network.static_variable_selection,
            (network.hparams.static_categoricals, network.hparams.static_reals),
            (past_inputs[0][:, 0], past_inputs[1][:, 0]),
            None,
        )
    else:
        static = past_inputs[1].new_zeros(len(encoder_lengths), network.hparams.hidden_size)
        static_weights = static.new_zeros(len(encoder_lengths), 0)
    context = network.static_context_variable_selection(static)[:, None]  # (batch, 1, hidden)
    past, past_weights = select(
        network.encoder_variable_selection,
        (network.hparams.time_varying_categoricals_encoder, network.hparams.time_varying_reals_encoder),
        past_inputs,
        context,
    )
    future, future_weights = select(
        network.decoder_variable_selection,
        (network.hparams.time_varying_categoricals_decoder, network.hparams.time_varying_reals_decoder),
        future_inputs,
        context,
    )

    layers = network.hparams.lstm_layers
    state = (
        network.static_context_initial_hidden_lstm(static).expand(layers, -1, -1).contiguous(),
        network.static_context_initial_cell_lstm(static).expand(layers, -1, -1).contiguous(),
    )
    past_output, state = _recur(network.lstm_encoder, past, state, encoder_lengths)
    future_output, _ = _recur(network.lstm_decoder, future, state, decoder_lengths)
    # The gate and norm behind the LSTM are the same for encoder and decoder.
    selected = torch.cat([past, future], dim=1)
    recurrent = gated(network.post_lstm_gate_encoder, torch.cat([past_output, future_output], dim=1))
    recurrent = network.post_lstm_add_norm_encoder(recurrent, selected)

    enriched = residual_network(
        network.static_enrichment, recurrent, network.static_context_enrichment(static)[:, None]
    )
    same = bool((encoder_lengths == encoder_lengths[0]).all() and (decoder_lengths == decoder_lengths[0]).all())
    masked = slice(0, 1) if same else slice(None)  # one mask for all, where it is the same for all
    mask = network.get_attention_mask(encoder_lengths=encoder_lengths[masked], decoder_lengths=decoder_lengths[masked])
    ahead = enriched[:, decoder]
    attended, attention = attend(network.multihead_attn, ahead, enriched, mask, explain=explain)
    output = gate_and_norm(network.post_attn_gate_norm, attended, ahead)
    output = residual_network(network.pos_wise_ff, output)
    output = gate_and_norm(network.pre_output_gate_norm, output, recurrent[:, decoder])
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
