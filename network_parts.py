"""The parts of the TFT network without the library: pytorch-forecasting's weights, as a network that serves has them.

Each part has the parameters of the library's module under the same names, and the attributes that `tft_execution.py`
and `tft_kernels.py` read; `tests/test_tft_model.py` holds them against the library's. They do not learn: there is no
dropout, and weights are loaded, not drawn. Knows nothing of features, files or HTTP.

Source: pytorch-forecasting 1.8, `models/temporal_fusion_transformer/sub_modules.py` and `models/nn/embeddings.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tft_kernels import gate_and_norm, interpolation


class GatedLinearUnit(nn.Module):
    """Value times sigmoid of its gate, both from one layer."""

    dropout = None

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.fc = nn.Linear(input_size, 2 * hidden_size)


class AddNorm(nn.Module):
    """Layer norm of a sum."""

    trainable_add = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)

    def forward(self, inputs: Tensor, skip: Tensor) -> Tensor:
        """Both of the same size."""
        result: Tensor = self.norm(inputs + skip)
        return result


class GateAddNorm(nn.Module):
    """Layer norm of gated inputs plus a skip connection; `tft_kernels.gate_and_norm` computes it."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.glu = GatedLinearUnit(input_size, hidden_size)
        self.add_norm = AddNorm(hidden_size)


class ResampleNorm(nn.Module):
    """Layer norm of inputs that are interpolated to another size and weighed."""

    trainable_add = True

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.mask = nn.Parameter(torch.zeros(output_size))
        self.norm = nn.LayerNorm(output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, input_size) to (…, output_size)."""
        if self.input_size != self.output_size:
            inputs = inputs @ interpolation(self.input_size, self.output_size, inputs)
        result: Tensor = self.norm(inputs * torch.sigmoid(self.mask) * 2.0)
        return result


class GatedResidualNetwork(nn.Module):
    """Two layers and a gate beside a skip connection."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, *, context: bool | int = False) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        if input_size != output_size:
            self.resample_norm = ResampleNorm(input_size, output_size)
        self.fc1 = nn.Linear(input_size, hidden_size)
        if context:
            self.context = nn.Linear(hidden_size if context is True else context, hidden_size, bias=False)
        self.fc2 = nn.Linear(hidden_size, hidden_size)
        self.gate_norm = GateAddNorm(hidden_size, output_size)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """(…, input_size) to (…, output_size)."""
        hidden = self.fc1(inputs)
        if context is not None:
            hidden = hidden + self.context(context)
        skip = self.resample_norm(inputs) if self.input_size != self.output_size else inputs
        return gate_and_norm(self.gate_norm, self.fc2(nn.functional.elu(hidden)), skip)


class VariableSelection(nn.Module):
    """Weighs the variables by one network of all of them, and sums up what a network of each makes of it.

    Parameters
    ----------
    embedded : dict
        Size of each embedded category.
    scaled : dict
        The layer that scales up each real variable: shared with other selections.
    size : int
        What real variables are scaled up to.
    context : bool
        Whether the weights depend on a context of the hidden size.
    """

    def __init__(
        self, embedded: dict[str, int], scaled: dict[str, nn.Module], size: int, hidden_size: int, *, context: bool
    ) -> None:
        super().__init__()
        self.input_sizes = {**embedded, **dict.fromkeys(scaled, size)}
        self.num_inputs = len(self.input_sizes)
        if self.num_inputs > 1:
            self.flattened_grn = GatedResidualNetwork(
                sum(self.input_sizes.values()),
                min(hidden_size, self.num_inputs),
                self.num_inputs,
                context=hidden_size if context else False,
            )
        self.single_variable_grns = nn.ModuleDict(
            {name: ResampleNorm(own_size, hidden_size) for name, own_size in embedded.items()}
            | {name: GatedResidualNetwork(size, min(size, hidden_size), hidden_size) for name in scaled}
        )
        self.prescalers = nn.ModuleDict(scaled)

    def forward(self, inputs: dict[str, Tensor], context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is selected (…, hidden), and the weights (…, 1, n_variables); at least one variable."""
        numbers = [
            self.prescalers[name](inputs[name]) if name in self.prescalers else inputs[name]
            for name in self.input_sizes
        ]
        each = [self.single_variable_grns[name](one) for name, one in zip(self.input_sizes, numbers, strict=True)]
        outputs = torch.stack(each, dim=-1)
        if self.num_inputs == 1:
            weights = outputs.new_ones(*outputs.shape[:-2], 1, 1)
        else:
            weights = torch.softmax(self.flattened_grn(torch.cat(numbers, dim=-1), context), dim=-1).unsqueeze(-2)
        return (outputs * weights).sum(dim=-1), weights


class Attention(nn.Module):
    """Heads of their own for queries and keys, one for the values; `tft_attention.attend` computes it."""

    def __init__(self, heads: int, hidden_size: int, mask_bias: float) -> None:
        super().__init__()
        self.n_head, self.d_k, self.mask_bias = heads, hidden_size // heads, mask_bias
        self.dropout = nn.Dropout(0.0)
        self.v_layer = nn.Linear(hidden_size, self.d_k)
        self.q_layers = nn.ModuleList([nn.Linear(hidden_size, self.d_k) for _ in range(heads)])
        self.k_layers = nn.ModuleList([nn.Linear(hidden_size, self.d_k) for _ in range(heads)])
        self.w_h = nn.Linear(self.d_k, hidden_size, bias=False)


class Embeddings(nn.Module):
    """A table of vectors for each categorical variable."""

    def __init__(self, sizes: dict[str, tuple[int, int]], x_categoricals: list[str], largest: int) -> None:
        super().__init__()
        self.categorical_groups: dict[str, list[str]] = {}
        self.x_categoricals = x_categoricals
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(n, min(size, largest)) for name, (n, size) in sizes.items()}
        )

    def __getitem__(self, name: str) -> nn.Module:
        return self.embeddings[name]

    def size(self, name: str) -> int:
        """Numbers that a category becomes."""
        table = self.embeddings[name]
        assert isinstance(table, nn.Embedding)
        return table.embedding_dim
