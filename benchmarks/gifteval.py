"""How good the product's forecasts are on a public benchmark: GIFT-Eval's `bitbrains_rnd/5T`, short term.

python benchmarks/gifteval.py --data gifteval_bitbrains_rnd_5T.parquet --json

DATA has a row per server and 5 minutes: `server_name`, `timestamp` (UTC), `cpu_pct` (of the provisioned cores) and
`cpu_mhz`, on a full grid, NaN where nothing was measured; without --data, the folder that TFT_REAL_DATA names is
looked into. A model is trained with `python main.py train --until FIRST_LABEL`, so that nothing of what is scored has
been seen in any way, and forecasts from every origin through the same code that serves. MHz are the forecast percent
times the server's capacity, which is constant and known from its past.

Protocol (GIFT-Eval, arXiv:2410.10393, github.com/SalesforceAIResearch/gift-eval): both variates are series of their
own; the last blocks of the horizon are forecast, each from all that came before it; missing labels do not count.

    CRPS   mean over q = 0.1 … 0.9 of 2 · sum(quantile loss) / sum|y|
    MASE   mean over series and blocks of MAE(median) / mean|y_t − y_(t−288)| of the block's past
    ND     sum|y − median| / sum|y|

Published there for the short term (MASE / CRPS): seasonal naive 1.971 / 1.102, naive 2.056 / .868, TFT 2.27 / .486,
Chronos-Bolt-base 1.705 / .438, Toto-1.0 1.65 / .399; best CRPS of the table .356 (with MASE 1.578).

--development scores the blocks before the first label instead, and trains before those: for trying things out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measured import ROOT, report, say

from common_utils import iso_z
from contract_parquet import open_writer
from data_contract import DAY_STEPS, METRIC_COLUMNS, ProductError
from derived_columns import derived_state_names
from fleet_grid import FleetGrid
from tft_forecaster import Forecaster

FILE = "gifteval_bitbrains_rnd_5T.parquet"
HORIZON = 48
WINDOWS = 18
QUANTILES = np.round(np.arange(0.1, 0.95, 0.1), 1)
VARIATES = ("cpu_mhz", "cpu_pct")

# Some machines use more than their share: up to 182 %. The contract's percentages end at 100, so the product is shown
# percent of twice the provisioned cores; scales are each window's own, so nothing else changes.
CORES = 2.0

Floats = npt.NDArray[np.float64]


@dataclass
class Task:
    """The benchmark's series, and the scores of forecasts of their last blocks.

    Parameters
    ----------
    frame : DataFrame
        The benchmark's rows.
    end : int
        Step behind the last block; the blocks before it are scored.
    """

    frame: pd.DataFrame
    end: int
    series: dict[str, Floats] = field(init=False)

    def __post_init__(self) -> None:
        self.series = {
            name: self.frame.pivot_table(index="server_name", columns="timestamp", values=name, dropna=False).to_numpy(
                np.float64
            )
            for name in VARIATES
        }
        self._losses, self._labels, self._inside = np.zeros(len(QUANTILES)), np.zeros(2), 0
        self._absolute, self._crossed = 0.0, 0
        self._mase: list[Floats] = []

    @property
    def first_label(self) -> int:
        """Step from which on nothing may have been seen by a model."""
        return self.end - WINDOWS * HORIZON

    def origins(self) -> range:
        """First step of each block."""
        return range(self.first_label, self.end, HORIZON)

    def add(self, origin: int, variate: str, forecast: Floats) -> None:
        """Score the quantiles (servers, HORIZON, 9) of one block and variate."""
        truth, past = self.series[variate][:, origin : origin + HORIZON], self.series[variate][:, :origin]
        if forecast.shape != (*truth.shape, len(QUANTILES)) or not np.isfinite(forecast).all():
            raise SystemExit(f"{variate} at {origin}: forecasts of shape {forecast.shape}, or not finite")
        seen = np.isfinite(truth)
        error = truth[..., None] - forecast
        self._losses += np.nansum(np.maximum(QUANTILES * error, (QUANTILES - 1) * error), axis=(0, 1))
        self._labels += (seen.sum(), np.abs(truth[seen]).sum())
        self._inside += int((seen & (truth >= forecast[..., 0]) & (truth <= forecast[..., -1])).sum())
        self._crossed += int((np.diff(forecast, axis=-1) < 0).any(axis=-1).sum())
        absolute = np.abs(error[..., len(QUANTILES) // 2])
        self._absolute += float(np.nansum(absolute))
        change = np.abs(past[:, DAY_STEPS:] - past[:, :-DAY_STEPS])
        scale = np.nansum(change, axis=1) / np.maximum(np.isfinite(change).sum(axis=1), 1)
        usable = (scale > 0) & seen.any(axis=1)
        mean = np.nansum(absolute, axis=1) / np.maximum(seen.sum(axis=1), 1)
        self._mase.append(mean[usable] / scale[usable])

    def scores(self) -> dict[str, float]:
        """Scores of all that was added."""
        labels, total = self._labels
        return {
            "crps": round(float((2 * self._losses / total).mean()), 4),
            "mase": round(float(np.concatenate(self._mase).mean()), 4),
            "nd": round(self._absolute / total, 4),
            "coverage_p10_p90": round(self._inside / labels, 4),
            "crossed_steps": self._crossed,
        }


def write_contract_rows(frame: pd.DataFrame, path: Path) -> None:
    """The benchmark's rows as contract rows, in percent of CORES times the provisioned cores."""
    rows = frame.loc[frame["cpu_pct"].notna(), ["timestamp", "server_name", "cpu_pct"]].copy()
    rows["cpu_pct"] = rows["cpu_pct"] / CORES
    for column in METRIC_COLUMNS:
        if column not in rows:
            rows[column] = np.nan
    rows["state"] = derived_state_names({"cpu_pct": rows["cpu_pct"].to_numpy()}, len(rows))
    rows["profile"] = "generic"
    rows["timestamp"] = rows["timestamp"].dt.tz_localize("UTC")
    with open_writer(path) as writer:
        writer.write(rows)


def train(data: Path, until: datetime, models: Path, more: list[str]) -> float:
    """Seconds of `main.py train` on what lies before a time."""
    command = [sys.executable, str(ROOT / "main.py"), "train", "--data", str(data), "--models-dir", str(models)]
    started = time.perf_counter()
    subprocess.run([*command, "--until", iso_z(until), *more], check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def judge(forecaster: Forecaster, grid: FleetGrid, task: Task) -> dict[str, float]:
    """Scores of a model's forecasts of all blocks; the grid's columns are the task's steps."""
    per_percent = _capacity(task)
    for number, origin in enumerate(task.origins(), 1):
        forecast = forecaster.predict_grid(grid.until(grid.first_step + origin))
        cpu = METRIC_COLUMNS.index("cpu_pct")
        percent = np.stack([forecast.at(q)[:, :HORIZON, cpu] for q in QUANTILES], axis=-1).astype(np.float64) * CORES
        # A server that was silent for a day has no forecast of the product; the benchmark wants one: its last value.
        silent = ~np.isfinite(percent).all(axis=(1, 2))
        percent[silent] = _last(task.series["cpu_pct"][silent, :origin])[:, None, None]
        task.add(origin, "cpu_pct", percent)
        task.add(origin, "cpu_mhz", percent * per_percent[:, None, None])
        say(f"  block {number} of {WINDOWS}: {int(silent.sum())} servers silent for a day; so far {task.scores()}")
    return task.scores()


def _capacity(task: Task) -> Floats:
    """MHz per percent of each server, from before the first label."""
    percent, mhz = (task.series[name][:, : task.first_label] for name in ("cpu_pct", "cpu_mhz"))
    busy = percent > 0.5  # below, rounding hides the ratio
    ratio = np.where(busy, mhz / np.where(busy, percent, 1.0), np.nan)
    known = np.isfinite(ratio).any(axis=1)
    ratio[~known] = np.nanmedian(ratio)
    return np.asarray(np.nanmedian(ratio, axis=1), dtype=np.float64)


def _last(past: Floats) -> Floats:
    """Newest value of each row that is there, 0 without any."""
    place = np.where(np.isfinite(past), np.arange(past.shape[1]), -1).max(axis=1)
    return np.where(place >= 0, np.take_along_axis(past, np.maximum(place, 0)[:, None], axis=1)[:, 0], 0.0)


def data_path(given: Path | None) -> Path:
    """The benchmark's file: as given, or in the folder of real fleets."""
    folder = os.environ.get("TFT_REAL_DATA")
    if given is None and not folder:
        raise SystemExit("skipped: neither --data nor TFT_REAL_DATA names the benchmark's file")
    path = given if given is not None else Path(str(folder)) / FILE
    if not path.is_file():
        raise SystemExit(f"there is no file {path}")
    return path


def main() -> None:
    """Train, forecast, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"the benchmark's file ({FILE} in TFT_REAL_DATA)")
    parser.add_argument(
        "--model-dir", type=Path, help="score this model instead of training one; it must have seen no label"
    )
    parser.add_argument("--models-dir", type=Path, help="keep the trained model here")
    parser.add_argument("--preset", default="standard", help="preset of the training (standard)")
    parser.add_argument("--max-time", default="110m", help="longest time of the training (110m)")
    parser.add_argument("--development", action="store_true", help="the blocks before the first label, for development")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    frame = pd.read_parquet(data_path(options.data), columns=["server_name", "timestamp", *VARIATES])
    steps = frame["timestamp"].nunique()
    task = Task(frame, steps - WINDOWS * HORIZON if options.development else steps)
    first_label = pd.Timestamp(np.sort(frame["timestamp"].unique())[task.first_label]).tz_localize("UTC")
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "server_metrics.parquet"
            write_contract_rows(frame, data)
            figures: dict[str, float] = {}
            model = options.model_dir
            if model is None:
                models = options.models_dir or Path(folder) / "models"
                limits = ["--preset", options.preset, "--max-time", options.max_time]
                figures["train_seconds"] = round(train(data, first_label.to_pydatetime(), models, limits), 1)
                model = models / "latest"
            rows = pd.read_parquet(data)
            grid = FleetGrid.from_frame(rows)
            forecaster = Forecaster.load(model)  # before the folder with the trained model is gone
        if grid.n_servers != len(task.series["cpu_pct"]) or grid.n_steps != steps:
            raise SystemExit("the grid is not the benchmark's: a server or a step holds no value at all")
        figures |= judge(forecaster, grid, task)
    except ProductError as error:
        raise SystemExit(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the training ended with exit code {error.returncode}") from None
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
