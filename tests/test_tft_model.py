"""Tests of the network, as it learns and as it serves: pytorch-forecasting's own is the oracle for ours."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from pytorch_forecasting.models.temporal_fusion_transformer import TemporalFusionTransformer, sub_modules
from torch import Tensor

import network_parts
from data_contract import HORIZON_STEPS
from fleet_grid import N_METRICS, FleetGrid
from model_inputs import Layout
from tft_features import Augmentation, FeatureSpec, FleetTensors, Windows, gather_windows
from tft_model import NetworkConfig, by_step, forecast_scaled, ordered_quantiles, served_network
from training_network import FastTemporalFusionTransformer, build_network, network_arguments

SPEC = FeatureSpec(Layout(((24, 1),), patch=1, lag_days=(1,)), tuple(str(k) for k in range(7)), (5.0, 2.0, 1.0, 0.0))


def make_windows(batch: int = 5, seed: int = 0, origin: int | None = None, spec: FeatureSpec = SPEC) -> Windows:
    """Windows of a random fleet with gaps, hidden inputs and short histories among them."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(1, 99, (7, 700, N_METRICS)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    states = rng.integers(-1, 8, values.shape[:2]).astype(np.int8)
    grid = FleetGrid(
        tuple(f"ppweb{k:03d}" for k in range(7)), ("web_api", "database") * 3 + ("generic",), 0, values, states
    )
    fleet = FleetTensors.from_grid(grid, spec, [str(k) for k in range(6)] + [None])
    generator = torch.Generator().manual_seed(seed)
    servers = torch.randint(0, 7, (batch,), generator=generator)
    origins = torch.randint(20, 600, (batch,), generator=generator)
    if origin is not None:
        origins = torch.full((batch,), origin)
    hide = Augmentation(unknown_server=0.4, unknown_profile=0.4, unknown_state=0.4, short_history=0.4)
    return gather_windows(fleet, servers, origins, spec, hide, generator)


def make_inputs(batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Only what the network reads of them."""
    return make_windows(batch, seed).inputs


def make_twins(
    arguments: dict[str, Any], seed: int = 0
) -> tuple[FastTemporalFusionTransformer, TemporalFusionTransformer]:
    """Our network and the stock one with the same random weights, in evaluation mode."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        fast, stock = FastTemporalFusionTransformer(**arguments), TemporalFusionTransformer(**arguments)
    with torch.no_grad():
        for parameter in fast.parameters():  # also the ones that are initialised with zeros
            parameter.add_(0.2 * torch.randn_like(parameter))
    stock.load_state_dict(fast.state_dict())
    stock.transform_output = lambda prediction, target_scale: prediction  # raw outputs, as ours without target_scale
    return fast.eval(), stock.eval()


def raw(network: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
    """Stacked raw predictions and the whole output."""
    output = network({**inputs, "target_scale": None} if type(network) is TemporalFusionTransformer else inputs)
    prediction = output.prediction
    return torch.stack(prediction, dim=2) if isinstance(prediction, list) else prediction, output


def assert_same(fast: Any, stock: Any, inputs: dict[str, Tensor]) -> None:
    """Outputs within 1e-5, gradients within 1e-4 relative, explanations within 1e-5."""
    ours, our_output = raw(fast, inputs)
    theirs, their_output = raw(stock, inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for name in (
        "encoder_attention",
        "decoder_attention",
        "static_variables",
        "encoder_variables",
        "decoder_variables",
    ):
        torch.testing.assert_close(getattr(our_output, name), getattr(their_output, name), rtol=1e-5, atol=1e-5)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    gradients = dict(stock.named_parameters())
    compared = 0
    for name, parameter in fast.named_parameters():
        expected = gradients[name].grad
        if parameter.grad is None or expected is None:
            assert parameter.grad is None and expected is None, name
            continue
        # The softmax of the attention does not depend on the keys' biases: their gradients are rounding noise.
        if "k_layers" in name and name.endswith("bias"):
            assert parameter.grad.abs().max() < 1e-6
            continue
        error = (parameter.grad - expected).norm() / expected.norm().clamp_min(1e-7)
        assert error < 1e-4, f"{name}: {error}"
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("seed", range(3))
def test_computes_the_same_as_the_stock_network(seed: int) -> None:
    fast, stock = make_twins(network_arguments(SPEC, NetworkConfig(16, 4, 0.1)), seed)
    assert_same(fast, stock, make_inputs(seed=seed))


def test_computes_the_same_with_two_lstm_layers_and_one_head() -> None:
    fast, stock = make_twins(network_arguments(SPEC, NetworkConfig(8, 1, 0.1, lstm_layers=2)))
    assert_same(fast, stock, make_inputs(seed=4))


def test_computes_the_same_when_inputs_are_as_wide_as_the_network() -> None:
    fast, stock = make_twins(network_arguments(SPEC, NetworkConfig(8, 2, 0.0, hidden_continuous_size=8)))
    assert_same(fast, stock, make_inputs(seed=5))


def test_computes_the_same_for_sequences_of_different_lengths() -> None:
    fast, stock = make_twins(network_arguments(SPEC, NetworkConfig(16, 4, 0.1)))
    inputs = make_inputs(batch=6, seed=6)
    inputs["encoder_lengths"] = torch.tensor([24, 3, 24, 11, 1, 20])
    inputs["decoder_lengths"] = torch.tensor([96, 96, 40, 7, 96, 1])
    assert_same(fast, stock, inputs)


def test_computes_the_same_for_one_target() -> None:
    arguments = network_arguments(SPEC, NetworkConfig(16, 4, 0.1))
    arguments.update(output_size=3, loss=QuantileLoss([0.1, 0.5, 0.9]))
    fast, stock = make_twins(arguments)
    assert_same(fast, stock, make_inputs(seed=7))


def test_has_the_stock_networks_keys_and_shapes_and_scales_back_as_it_does() -> None:
    arguments = network_arguments(SPEC, NetworkConfig(16, 4, 0.1))
    fast, stock = make_twins(arguments)
    assert {k: v.shape for k, v in fast.state_dict().items()} == {k: v.shape for k, v in stock.state_dict().items()}
    assert isinstance(fast.loss, MultiLoss)
    fast.transform_output = lambda prediction, target_scale: [each * target_scale for each in prediction]
    inputs = make_inputs(seed=8)
    plain, scaled = raw(fast, inputs)[0], torch.stack(fast({**inputs, "target_scale": 3.0}).prediction, dim=2)
    torch.testing.assert_close(scaled, plain * 3)


def test_computes_the_same_for_a_fleet_that_is_forecast_from_one_moment() -> None:
    """Time, and gaps that all or no servers have, are then computed once."""
    fast, stock = make_twins(network_arguments(SPEC, NetworkConfig(16, 4, 0.1)))
    windows = make_windows(batch=6, seed=3, origin=500)
    same = (windows.inputs["encoder_cont"] == windows.inputs["encoder_cont"][:1]).all(dim=1).all(dim=0)
    assert 5 < same.sum() < len(same) - 5
    with torch.no_grad():
        torch.testing.assert_close(raw(fast, windows.inputs)[0], raw(stock, windows.inputs)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            fast.raw_outputs(windows.inputs), raw(stock, windows.inputs)[0], rtol=1e-5, atol=1e-5
        )
    one = {name: tensor[:1] for name, tensor in windows.inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(fast.raw_outputs(one), raw(stock, one)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [SPEC.layout, Layout()], ids=["step by step", "the product's"])
@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(16, 4, 0.1),
        NetworkConfig(8, 1, 0.1, lstm_layers=2),
        NetworkConfig(8, 2, 0.0, hidden_continuous_size=8),
    ],
    ids=["usual", "two layers", "as wide as its inputs"],
)
def test_what_is_served_computes_the_same_with_the_weights_that_were_learned(
    layout: Layout, config: NetworkConfig
) -> None:
    spec = FeatureSpec(layout, SPEC.server_ids, SPEC.prior_scale)
    learned, stock = make_twins(network_arguments(spec, config))
    served = served_network(spec, config)
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (served, learned)]
    assert shapes[0] == shapes[1]
    served.load_state_dict(learned.state_dict())
    windows = make_windows(batch=6, seed=2, origin=500, spec=spec)
    with torch.inference_mode():
        torch.testing.assert_close(
            served.raw_outputs(windows.inputs), learned.raw_outputs(windows.inputs), rtol=1e-5, atol=1e-5
        )
        ours, theirs = served(windows.inputs), raw(stock, windows.inputs)[1]
    assert set(ours) <= set(theirs._fields)
    for name, values in ours.items():
        torch.testing.assert_close(values, getattr(theirs, name), rtol=1e-5, atol=1e-5)


def test_parts_that_have_few_variables_compute_what_the_librarys_do() -> None:
    """No layout of ours has such, but a model folder may describe any."""
    for sizes, context in (({"a": 4}, None), ({"a": 4, "b": 6}, None), ({"a": 16, "b": 3}, torch.randn(2, 16))):
        width = None if context is None else 16
        flags = dict.fromkeys(sizes, True)
        stock = sub_modules.VariableSelectionNetwork(dict(sizes), 16, flags, 0.0, width).eval()
        ours = network_parts.VariableSelection(dict(sizes), {}, 8, 16, context=context is not None)
        ours.load_state_dict({key: 0.3 * torch.randn_like(value) for key, value in stock.state_dict().items()})
        stock.load_state_dict(ours.state_dict())
        inputs = {name: torch.randn(2, size) for name, size in sizes.items()}
        for found, expected in zip(ours(inputs, context), stock(inputs, context), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_served_cannot_learn() -> None:
    with pytest.raises(NotImplementedError):
        served_network(SPEC, NetworkConfig(8, 1)).train()


def test_forecasting_does_not_import_the_library_of_the_training() -> None:
    """Its import costs 160 MB and two seconds, which the daemon need not pay."""
    heavy = ("pytorch_forecasting", "lightning", "sklearn", "scipy", "torchmetrics", "torch._dynamo")
    code = f"import sys, tft_forecaster; print(*(name for name in {heavy!r} if name in sys.modules))"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_mixed_precision_comes_near_and_learns() -> None:
    network = build_network(SPEC, NetworkConfig(16, 4, 0.0)).train()
    windows = make_windows()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = forecast_scaled(network, windows)
        mixed.float().square().mean().backward()
    torch.testing.assert_close(mixed.float(), forecast_scaled(network, windows), rtol=0.1, atol=0.1)
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


def test_forecasting_alone_gives_the_numbers_of_the_whole_forward_pass() -> None:
    network = build_network(SPEC, NetworkConfig(16, 4, 0.1)).eval()
    inputs = make_inputs(seed=9)
    torch.testing.assert_close(
        network.raw_outputs(inputs), torch.stack(network(inputs).prediction, dim=2), rtol=1e-5, atol=1e-5
    )


def test_all_steps_of_a_patch_come_from_one_position_in_their_order() -> None:
    raw = torch.randn(2, 4, 3, 5 * 6)  # 4 positions of 6 steps, 3 targets, 5 outputs
    steps = by_step(raw, 24)
    assert steps.shape == (2, 24, 3, 5)
    for position, step, output in ((0, 0, 0), (2, 5, 4), (3, 1, 2)):
        assert torch.equal(steps[:, position * 6 + step, :, output], raw[:, position, :, output * 6 + step])


def test_the_products_layout_computes_the_same_as_the_stock_network_and_forecasts_every_step() -> None:
    spec = FeatureSpec(Layout(), SPEC.server_ids, SPEC.prior_scale)
    fast, stock = make_twins(network_arguments(spec, NetworkConfig(16, 4, 0.0)))
    windows = make_windows(spec=spec)
    assert_same(fast, stock, windows.inputs)
    forecast = forecast_scaled(fast, windows)
    assert forecast.shape == (5, HORIZON_STEPS, N_METRICS, len(spec.quantiles))
    assert (forecast.diff(dim=-1) >= 0).all()


def test_dropout_is_active_in_training_only() -> None:
    network = build_network(SPEC, NetworkConfig(16, 4, 0.3))
    windows = make_windows()
    network.train()
    assert not torch.equal(forecast_scaled(network, windows), forecast_scaled(network, windows))
    network.eval()
    assert torch.equal(forecast_scaled(network, windows), forecast_scaled(network, windows))


def test_the_network_chooses_between_the_naive_forecasts_where_its_quantiles_start() -> None:
    network = build_network(SPEC, NetworkConfig(16, 4, 0.0)).eval()
    windows = make_windows()
    with torch.no_grad():
        for layer in network.output_layer:
            layer.weight.zero_()
            layer.bias.zero_()
    n_anchors = len(SPEC.layout.anchors)
    for k in range(n_anchors):
        with torch.no_grad():
            for layer in network.output_layer:
                layer.bias[-n_anchors:] = -100.0
                layer.bias[-n_anchors + k] = 100.0
        median = forecast_scaled(network, windows)[..., len(SPEC.quantiles) // 2]
        torch.testing.assert_close(median, windows.anchors[..., k])


def test_ordered_quantiles_never_cross_and_keep_the_median() -> None:
    raw_outputs = 10 * torch.randn(50, 96, 4, 11, generator=torch.Generator().manual_seed(0))
    ordered = ordered_quantiles(raw_outputs)
    assert (ordered.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(ordered[..., 5], raw_outputs[..., 5])


def test_weights_survive_the_way_through_the_configs_json_form() -> None:
    config = NetworkConfig(16, 4, 0.1)
    assert NetworkConfig.from_dict(config.as_dict()) == config
    assert FeatureSpec.from_dict(SPEC.as_dict()) == SPEC
