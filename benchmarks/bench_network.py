"""How fast the network trains and forecasts beside pytorch-forecasting's own, on the same windows, in one run.

    python benchmarks/bench_network.py --json

Both sides take turns, so that other load on the machine hits both; medians are compared. The last line is one JSON
object: `ratio_vs_stock_step`, `ratio_vs_stock_forward`, `ms_step`, `ms_forward`, `ms_gather`, `ms_90_servers`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from pytorch_forecasting.models.temporal_fusion_transformer import TemporalFusionTransformer

from fleet_grid import FleetGrid
from metrics_generator import GeneratorOptions, generate_frame
from tft_features import FeatureSpec, FleetTensors, gather_windows, typical_spread
from tft_model import NetworkConfig, build_network, forecast_scaled, network_arguments


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds per comparison")
    parser.add_argument("--batch", type=int, default=128, help="windows per training step")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    arguments = parser.parse_args()

    grid = FleetGrid.from_frame(generate_frame(GeneratorOptions(hours=96)))
    spec = FeatureSpec(72, tuple(sorted(str(k) for k in range(grid.n_servers))), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, [str(k) for k in range(grid.n_servers)])
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute .* is an instance of `nn.Module`")
        stock = TemporalFusionTransformer(**network_arguments(spec, NetworkConfig()))
    stock.transform_output = lambda prediction, **_: prediction
    fast = build_network(spec, NetworkConfig())
    stock.load_state_dict(fast.state_dict())

    servers = torch.randint(0, grid.n_servers, (arguments.batch,))
    origins = torch.randint(400, grid.n_steps - 96, (arguments.batch,))
    windows = gather_windows(fleet, servers, origins, spec)
    everybody = torch.arange(grid.n_servers)
    inputs = {fast: windows.inputs, stock: {**windows.inputs, "target_scale": None}}

    def step(network: torch.nn.Module) -> None:
        network.zero_grad()
        torch.stack(network(inputs[network]).prediction, dim=2).square().mean().backward()

    def forward(network: torch.nn.Module) -> None:
        with torch.inference_mode():
            network(inputs[network])

    def forecast_fleet() -> None:
        with torch.inference_mode():
            fleet_windows = gather_windows(fleet, everybody, torch.full_like(everybody, grid.n_steps), spec)
            fleet_windows.scale.units(forecast_scaled(fast, fleet_windows))

    fast.train(), stock.train()
    steps = in_turn({"stock": lambda: step(stock), "fast": lambda: step(fast)}, arguments.rounds)
    fast.eval(), stock.eval()
    forwards = in_turn({"stock": lambda: forward(stock), "fast": lambda: forward(fast)}, arguments.rounds)
    alone = in_turn(
        {"gather": lambda: gather_windows(fleet, servers, origins, spec), "90": forecast_fleet}, arguments.rounds
    )
    result = {
        "ratio_vs_stock_step": round(steps["stock"] / steps["fast"], 2),
        "ratio_vs_stock_forward": round(forwards["stock"] / forwards["fast"], 2),
        "ms_step": round(steps["fast"], 1),
        "ms_forward": round(forwards["fast"], 1),
        "ms_gather": round(alone["gather"], 1),
        "ms_90_servers": round(alone["90"], 1),
    }
    if not arguments.json:
        for name, value in result.items():
            print(f"{name:24} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
