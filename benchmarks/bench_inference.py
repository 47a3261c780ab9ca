"""How long a fleet's forecast takes, in how much memory, and how that compares with pytorch-forecasting's `predict()`.

python benchmarks/bench_inference.py         # about 4 minutes on 2 cores
python benchmarks/bench_inference.py --json  # one JSON object as the last line

Measured is all between a history in memory and decoded quantiles in units: here `Forecaster.predict_grid` from a
`FleetGrid`; on the other side `TimeSeriesDataSet.from_dataset(predict=True)`, its loader and
`predict(mode="quantiles")`, from a frame that holds the features already and the rows of the future, too. Both
networks have the same size; the library's reads 72 steps and writes 96 one by one, as its data set makes them, ours
what the product serves with: pieces of 25 hours, patches of 6 steps, calibrated. The weights are random, as saved and
loaded by `model_folder.py`: speed does not depend on what they learned. Fleets larger than 90 servers are copies of
the generated one under other names. Sides and sizes take turns; medians.

`ratio_vs_stock_forward` compares the forward pass of the very same network, 72 steps to 96, on the same 128 windows.
Peak memory is that of a fresh process that loads the model, holds the history and forecasts once; `growth_mb_*` is how
far that lies above the loaded model. `cost_per_server_10000_to_1000` is 1 where the time grows linearly.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from measured import ROOT, in_turn, report, say
from peak_memory import PEAK_MB
from pytorch_forecasting import TemporalFusionTransformer
from stock import (
    BATCH,
    HISTORY_STEPS,
    LAYOUT,
    StockSettings,
    quiet,
    stock_dataset,
    stock_frame,
    stock_network,
    stock_predict,
)

from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from fleet_grid import FleetGrid
from fleet_spreads import typical_spread
from metrics_generator import GeneratorOptions, generate_frame
from model_folder import save_model
from model_inputs import Layout
from quantile_calibration import QuantileCalibration
from server_encoder import ServerEncoder
from tft_features import QUANTILES, FeatureSpec, FleetTensors, gather_windows
from tft_forecaster import Forecaster
from tft_model import NetworkConfig
from training_network import build_network, network_arguments

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_NETWORK = NetworkConfig()

_CHILD = """
import json, sys
import numpy as np
from fleet_grid import FleetGrid
from tft_forecaster import Forecaster

forecaster = Forecaster.load(sys.argv[1])
loaded = peak_mb()
with np.load(sys.argv[2]) as kept:
    names, profiles = kept["names"].tolist(), kept["profiles"].tolist()
    grid = FleetGrid(tuple(names), tuple(profiles), int(kept["first_step"]), kept["values"], kept["states"])
values = forecaster.predict_grid(grid).values
assert values.shape[0] == grid.n_servers and np.isfinite(values).all()
print(json.dumps([loaded, peak_mb()]))
"""


@dataclass(frozen=True)
class Sizes:
    """Numbers of servers and of rounds."""

    ours: tuple[int, ...] = (90, 300, 1_000, 3_000, 10_000)
    stock: tuple[int, ...] = (90, 1_000)
    memory: tuple[int, ...] = (90, 1_000, 10_000)
    linear: tuple[int, int] = (1_000, 10_000)
    rounds: int = 9
    batch: int = BATCH  # windows of the forward pass alone

    def rounds_of(self, servers: int) -> int:
        """Rounds of a comparison; what takes seconds is measured three times."""
        return self.rounds if servers <= 300 else min(self.rounds, 3)


def fleet_of(base: FleetGrid, servers: int) -> FleetGrid:
    """A fleet of so many servers: the base, then copies of it under other names."""
    copies = -(-servers // base.n_servers)
    names = [name if copy == 0 else f"{name}-{copy}" for copy in range(copies) for name in base.names]
    return FleetGrid(
        names=tuple(names[:servers]),
        profiles=(base.profiles * copies)[:servers],
        first_step=base.first_step,
        values=np.tile(base.values, (copies, 1, 1))[:servers],
        states=np.tile(base.states, (copies, 1))[:servers],
    )


@dataclass(frozen=True)
class OurSide:
    """A model folder of random weights that knows a fleet, the same loaded, and as much history as it reads."""

    folder: Path
    forecaster: Forecaster
    grid: FleetGrid

    def forecast(self) -> object:
        """Forecast the fleet."""
        return self.forecaster.predict_grid(self.grid)


def our_side(base: FleetGrid, servers: int, folder: Path) -> OurSide:
    """Make the model and the fleet."""
    encoder = ServerEncoder()
    grid = fleet_of(base, servers)
    encoder.create_mapping(grid.names)
    spec = FeatureSpec(
        Layout(),
        tuple(sorted(encoder.name_to_id.values())),
        typical_spread(base),
        calibration=QuantileCalibration.none(len(QUANTILES)),  # costs as much as any other
    )
    torch.manual_seed(0)
    weights = {key: tensor.clone() for key, tensor in build_network(spec, _NETWORK).state_dict().items()}
    path = save_model(folder, f"tft_model_20260101_{servers:06d}", weights, spec, _NETWORK, {}, encoder)
    return OurSide(path, Forecaster.load(path), grid.since(grid.origin_step - spec.history_steps))


def stock_side(base: FleetGrid, servers: int) -> Callable[[], list[torch.Tensor]]:
    """A forecast of the library's: its network, data set and frame are in memory."""
    grid = fleet_of(base, servers)
    torch.manual_seed(0)
    settings = StockSettings()
    training = stock_dataset(stock_frame(grid), settings)
    network = stock_network(training, typical_spread(base), _NETWORK, settings).eval()
    history = grid.since(grid.origin_step - HISTORY_STEPS)
    frame = stock_frame(history, future=True)

    def forecast() -> list[torch.Tensor]:
        result = stock_predict(network, training, frame)
        if len(result) != len(METRIC_COLUMNS) or any(len(each) != servers for each in result):
            raise SystemExit("the other side has not forecast every server and metric")
        return result

    return forecast


def peak_memory(side: OurSide) -> tuple[float, float]:
    """Peak MB of a fresh process that forecasts a fleet once: in all, and above the loaded model."""
    grid = side.grid
    history = side.folder.with_suffix(".npz")
    np.savez(
        history,
        names=grid.names,
        profiles=grid.profiles,
        first_step=grid.first_step,
        values=grid.values,
        states=grid.states,
    )
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MB + _CHILD, str(side.folder), str(history)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    loaded, peak = json.loads(done.stdout)
    return peak, peak - loaded


def bench_memory(sides: Mapping[int, OurSide], sizes: Sizes) -> dict[str, float]:
    """Peak memory of each size."""
    figures = {}
    for servers in sizes.memory:
        peak, growth = peak_memory(sides[servers])
        figures[f"peak_mb_{servers}_servers"] = round(peak, 1)
        figures[f"growth_mb_{servers}_servers"] = round(growth, 1)
        say(f"  {servers} servers: {peak:.0f} MB, {growth:.0f} MB above the loaded model")
    return figures


def bench_fleets(base: FleetGrid, sides: Mapping[int, OurSide], sizes: Sizes) -> dict[str, float]:
    """Milliseconds of whole forecasts: beside the library's, then of ours from size to size."""
    figures: dict[str, float] = {}
    for servers in sizes.stock:
        times = in_turn({"stock": stock_side(base, servers), "ours": sides[servers].forecast}, sizes.rounds_of(servers))
        figures[f"stock_ms_{servers}_servers"] = round(times["stock"], 1)
        figures[f"ratio_vs_stock_{servers}_servers"] = round(times["stock"] / times["ours"], 2)
        say(f"  {servers} servers: stock {times['stock']:.0f} ms, ours {times['ours']:.0f} ms")

    for group in ([n for n in sizes.ours if n <= 300], [n for n in sizes.ours if n > 300]):
        rounds = sizes.rounds_of(max(group, default=0)) * (3 if max(group, default=0) <= 300 else 1)
        times = in_turn({str(servers): sides[servers].forecast for servers in group}, rounds)
        figures |= {f"ms_{servers}_servers": round(ms, 1) for servers, ms in times.items()}
    few, most = sizes.linear
    each = [figures[f"ms_{servers}_servers"] / servers for servers in (few, most)]
    figures[f"s_{most}_servers"] = round(figures[f"ms_{most}_servers"] / 1e3, 3)
    figures[f"cost_per_server_{most}_to_{few}"] = round(each[1] / each[0], 2)
    say(f"  ours: {', '.join(f'{name} {value}' for name, value in figures.items() if name.startswith('ms_'))}")
    return figures


def bench_forward(base: FleetGrid, batch: int, rounds: int) -> dict[str, float]:
    """The forward pass of the two networks alone, with the same weights on the same batch."""
    spec = FeatureSpec(LAYOUT, tuple(str(k) for k in range(base.n_servers)), typical_spread(base))
    fleet = FleetTensors.from_grid(base, spec, [str(k) for k in range(base.n_servers)])
    torch.manual_seed(0)
    fast = build_network(spec, _NETWORK).eval()
    with quiet():
        stock = TemporalFusionTransformer(**network_arguments(spec, _NETWORK)).eval()
    stock.transform_output = lambda prediction, **_: prediction
    stock.load_state_dict(fast.state_dict())
    servers = torch.randint(0, base.n_servers, (batch,))
    origins = torch.randint(HISTORY_STEPS, base.n_steps - HORIZON_STEPS, (batch,))
    inputs = gather_windows(fleet, servers, origins, spec).inputs

    with torch.inference_mode():
        times = in_turn(
            {"stock": lambda: stock({**inputs, "target_scale": None}), "fast": lambda: fast.raw_outputs(inputs)},
            rounds,
        )
    return {
        "ratio_vs_stock_forward": round(times["stock"] / times["fast"], 2),
        "ms_forward": round(times["fast"], 1),
        "stock_ms_forward": round(times["stock"], 1),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing but that all of it runs")
    options = parser.parse_args()
    begin = time.perf_counter()
    load = os.getloadavg()[0]
    sizes = Sizes(ours=(3, 7), stock=(7,), memory=(7,), linear=(3, 7), rounds=1, batch=8) if options.tiny else Sizes()
    fleet = GeneratorOptions(servers=5 if options.tiny else 90, hours=176, start=_START)
    base = FleetGrid.from_frame(generate_frame(fleet))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = {servers: our_side(base, servers, Path(folder)) for servers in sizes.ours}
        say("whole forecasts, in turn")
        figures |= bench_fleets(base, sides, sizes)
        figures |= bench_forward(base, sizes.batch, 2 * sizes.rounds)
        say("peak memory of a fresh process")
        figures |= bench_memory(sides, sizes)
    figures["torch_threads"] = torch.get_num_threads()
    figures["load_average_1min_before"] = round(load, 2)
    figures["benchmark_seconds"] = round(time.perf_counter() - begin, 1)
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
