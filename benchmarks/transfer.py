"""How well a model that learned from one fleet forecasts another: what the generator teaches is used on real machines.

python benchmarks/transfer.py --model-dir models/latest --data DATA --json

DATA is contract data (a file or folder). Forecasts are made from origins spread over its last part, for all servers, as
unknown ones where the model does not know them, and compared with what then happened and with two naive forecasts. For
an honest figure the model must not have learned from DATA, or only from what lies before that part.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_contract import HORIZON_STEPS, METRIC_COLUMNS, ProductError
from data_validator import load_valid_frame
from fleet_grid import FleetGrid
from tft_forecaster import Forecaster

DAY = 288


def judge(forecaster: Forecaster, grid: FleetGrid, origins: int, share: float) -> dict[str, float]:
    """Errors over origins in the last `share` of a grid, pooled over servers, steps and origins."""
    last = grid.n_steps - HORIZON_STEPS
    first = max(int(grid.n_steps * (1 - share)), 2 * DAY)
    if last <= first:
        raise SystemExit(f"There are too few steps: {grid.n_steps}, and {first + HORIZON_STEPS} are needed.")
    sums = np.zeros((4, len(METRIC_COLUMNS)))
    counts = np.zeros(len(METRIC_COLUMNS))
    for origin in np.linspace(first, last, origins).astype(int):
        past = FleetGrid(grid.names, grid.profiles, grid.first_step, grid.values[:, :origin], grid.states[:, :origin])
        forecast = forecaster.predict_grid(past)
        truth = grid.values[:, origin : origin + HORIZON_STEPS]
        newest = _newest(past.values[:, -DAY:])[:, None]
        day_before = grid.values[:, origin - DAY : origin - DAY + HORIZON_STEPS]
        low, middle, high = (forecast.at(quantile) for quantile in (0.1, 0.5, 0.9))
        there = np.isfinite(truth) & np.isfinite(middle) & np.isfinite(day_before) & np.isfinite(newest)
        for place, error in enumerate((truth - middle, truth - newest, truth - day_before)):
            sums[place] += np.where(there, np.abs(error), 0).sum(axis=(0, 1))
        sums[3] += (there & (low <= truth) & (truth <= high)).sum(axis=(0, 1))
        counts += there.sum(axis=(0, 1))
    figures: dict[str, float] = {}
    for metric, column in enumerate(METRIC_COLUMNS):
        if counts[metric]:
            mae, naive, seasonal, covered = sums[:, metric] / counts[metric]
            figures |= {
                f"mae_{column}": round(float(mae), 4),
                f"mae_last_value_{column}": round(float(naive), 4),
                f"mae_seasonal_naive_{column}": round(float(seasonal), 4),
                f"coverage_p10_p90_{column}": round(float(covered), 4),
            }
    return figures


def _newest(values: np.ndarray) -> np.ndarray:
    """Newest value that is there, (servers, metrics)."""
    steps = np.arange(values.shape[1])[None, :, None]
    last = np.where(np.isfinite(values), steps, -1).max(axis=1)
    newest = np.take_along_axis(values, np.maximum(last, 0)[:, None], axis=1)[:, 0]
    return np.where(last >= 0, newest, np.nan)


def main() -> None:
    """Judge a model on a fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"), help="model folder")
    parser.add_argument("--data", type=Path, required=True, help="contract data to forecast")
    parser.add_argument("--origins", type=int, default=24, help="forecasts per server (24)")
    parser.add_argument("--share", type=float, default=0.15, help="last part of the time that judges (0.15)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    try:
        forecaster = Forecaster.load(options.model_dir)
        figures = judge(
            forecaster, FleetGrid.from_frame(load_valid_frame(options.data)), options.origins, options.share
        )
    except ProductError as error:
        raise SystemExit(str(error)) from None
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<36} {value:>12,}")


if __name__ == "__main__":
    main()
