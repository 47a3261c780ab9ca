"""How all weights of a network become one tensor, so that a step of the optimiser is a few operations, not thousands.

The network has more than 500 small tensors. Clipping their gradients and one AdamW step take about 6 ms on a CPU with
PyTorch's fused and foreach kernels, because each tensor is looked at by itself; on one tensor they take a few tenths.
Knows nothing of the network.
"""

from __future__ import annotations

import torch
from torch import nn

_ALIGNMENT = 16  # numbers; 64 bytes, as PyTorch's own tensors begin at


def flatten_weights(module: nn.Module) -> nn.Parameter:
    """Make all parameters of a module, and their gradients, views of one.

    The module computes what it did before. Gradients are added up in place, so they must be set to zero, not to None.

    Returns
    -------
    Parameter, (n,)
        For the optimiser; between the weights lie a few zeros, which stay zeros.
    """
    parameters = list(module.parameters())
    starts, size = [], 0
    for parameter in parameters:
        starts.append(size)
        size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
    like = parameters[0]
    flat = nn.Parameter(torch.zeros(size, dtype=like.dtype, device=like.device))
    flat.grad = torch.zeros_like(flat)
    for parameter, start in zip(parameters, starts, strict=True):
        part = slice(start, start + parameter.numel())
        view = flat.detach()[part].view(parameter.shape)
        view.copy_(parameter.detach())
        parameter.data = view
        parameter.grad = flat.grad[part].view(parameter.shape)
    return flat


def _self_check() -> None:
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Linear(3, 5), nn.ELU(), nn.Linear(5, 2)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    flat = flatten_weights(one)
    optimizers = [torch.optim.AdamW([flat], lr=0.1), torch.optim.AdamW(other.parameters(), lr=0.1)]
    inputs = torch.randn(8, 3)
    for _ in range(5):
        for module, optimizer, weights in zip((one, other), optimizers, ([flat], other.parameters()), strict=True):
            optimizer.zero_grad(set_to_none=False)
            module(inputs).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
