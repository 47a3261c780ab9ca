"""How good a trained model is: the quality gate, scores beside naive forecasts, and what `training_info.json` tells.

Knows nothing of how it was trained, or where it is kept.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common_utils import iso_z
from config import Settings
from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS, VALID_STATES
from fleet_grid import time_of
from quantile_calibration import CalibrationFit, QuantileCalibration
from tft_features import Augmentation, FeatureSpec, Windows
from tft_model import NetworkConfig, forecast_scaled
from training_data import TrainingData
from training_loop import EpochRecord
from training_origins import Split
from training_runs import TRAINING_SETTINGS

MAX_LOSS_RATIO = 1.5

_SCORES = ("mae", "mae_last_value", "mae_seasonal_naive", "coverage")
_LIBRARIES = ("torch", "lightning", "pytorch-forecasting", "safetensors", "numpy", "pandas", "pyarrow")


def judge_quality(records: list[EpochRecord]) -> dict[str, Any]:
    """Quality gate: the training loss fell, and the validation loss is below 1.5 times the training loss."""
    best = min(records, key=lambda record: record.val_loss)
    # The training loss of an epoch that was cut short is that of a few batches: whole ones count where there are any.
    whole = [record for record in records if record.share >= 1] or records
    learned = next((record for record in whole[::-1] if record.epoch <= best.epoch), best).train_loss
    failures = []
    if len(whole) > 1 and whole[-1].train_loss >= whole[0].train_loss:
        failures.append(f"the training loss did not fall ({whole[0].train_loss:.4f} to {whole[-1].train_loss:.4f})")
    ratio = best.val_loss / learned if learned > 0 else float(best.val_loss > 0) * MAX_LOSS_RATIO
    if ratio >= MAX_LOSS_RATIO:
        failures.append(f"the validation loss is {ratio:.2f} times the training loss, {MAX_LOSS_RATIO} are allowed")
    return {"validation_to_training_loss": round(ratio, 4), "failures": failures}


@torch.no_grad()
def fit_quantiles(network: Any, spec: FeatureSpec, validation: Iterable[Windows], days: float) -> QuantileCalibration:
    """Count on the validation windows, which lie in so many days, how far from the median each quantile really lies."""
    fit = CalibrationFit(spec.quantiles, days)
    for windows in validation:
        fit.add(forecast_scaled(network, windows), windows.labels)
    return fit.result()


@torch.no_grad()
def validation_scores(network: Any, spec: FeatureSpec, validation: Iterable[Windows]) -> dict[str, Any]:
    """Scores of the median and the served interval on the validation windows, beside two naive forecasts.

    Returns
    -------
    dict
        Per metric: mean absolute errors in the metric's unit of the median (`mae`), of the last value
        (`mae_last_value`) and of the value a day before (`mae_seasonal_naive`), all on the same steps; `coverage` of
        p10 to p90; and under `horizons` the same at exactly each served step. None where there is nothing to compare.
    """
    low, middle, high = (spec.quantiles.index(q) for q in (0.1, 0.5, 0.9))
    sums = torch.zeros(HORIZON_STEPS, len(METRIC_COLUMNS), len(_SCORES), dtype=torch.float64)
    counts = torch.zeros(HORIZON_STEPS, len(METRIC_COLUMNS), dtype=torch.float64)
    n_windows = 0
    for windows in validation:
        forecast = windows.scale.units(forecast_scaled(network, windows, spec.calibration))
        truth = windows.scale.units(windows.labels[..., None])[..., 0]
        last, day_ago = windows.naive
        inside = ((truth >= forecast[..., low]) & (truth <= forecast[..., high])).to(truth)
        errors = [(each - truth).abs() for each in (forecast[..., middle], last, day_ago)]
        scores = torch.stack([*errors, inside], dim=-1).double()  # (windows, horizon, n_metrics, 4)
        comparable = torch.isfinite(scores[..., :3]).all(dim=-1)
        sums += torch.where(comparable[..., None], scores, 0.0).sum(dim=0)
        counts += comparable.sum(dim=0)
        n_windows += len(truth)

    result: dict[str, Any] = {"windows": n_windows}
    for k, column in enumerate(METRIC_COLUMNS):
        overall = _means(sums[:, k].sum(dim=0), counts[:, k].sum())
        if overall is not None:
            at = {label: _means(sums[step - 1, k], counts[step - 1, k]) for label, step in HORIZONS.items()}
            overall["horizons"] = at
        result[column] = overall
    return result


def _means(sums: Tensor, count: Tensor) -> dict[str, Any] | None:
    if not count:
        return None
    return {name: round(float(value), 4) for name, value in zip(_SCORES, sums / count, strict=True)}


def describe_data(data: TrainingData, split: Split) -> dict[str, Any]:
    """Tell what was learned from and what judged."""
    grid = data.grid
    seen = np.zeros(len(VALID_STATES) + 1, dtype=np.int64)
    for states in grid.states:  # one server at a time: the grid may be larger than the memory
        seen += np.bincount(np.asarray(states, dtype=np.int64) + 1, minlength=len(seen))
    known = max(int(seen[1:].sum()), 1)
    return {
        "fingerprint": data.fingerprint,
        "rows": data.rows,
        "start": iso_z(time_of(grid.first_step)),
        "end": iso_z(time_of(grid.origin_step)),
        "validation_start": iso_z(time_of(grid.first_step + split.train_end)),
        "servers": grid.n_servers,
        "servers_by_profile": {profile: grid.profiles.count(profile) for profile in sorted(set(grid.profiles))},
        "unseen": {**data.restrictions.as_dict(), "held_out_servers": list(data.held_out)},
        "share_by_state": {
            state: round(int(count) / known, 6) for state, count in zip(VALID_STATES, seen[1:], strict=True) if count
        },
        "sampling": split.describe(),
    }


def describe_hyperparameters(
    network: NetworkConfig, spec: FeatureSpec, settings: Settings, epochs: int, rate: float
) -> dict[str, Any]:
    """Tell with which sizes and rates; `rate` is the share of the learning rate that was used in the end."""
    return {
        **network.as_dict(),
        **spec.layout.as_dict(),
        "horizon_steps": HORIZON_STEPS,
        "quantiles": list(spec.quantiles),
        "epochs": epochs,
        "augmentation": asdict(Augmentation()),
        **{key: getattr(settings, key) for key in TRAINING_SETTINGS},
        "learning_rate_share": rate,
    }


def describe_losses(records: list[EpochRecord]) -> dict[str, Any]:
    """Losses of every epoch and of the one whose weights became the model."""
    best = min(records, key=lambda record: record.val_loss)
    return {
        "losses": [asdict(record) for record in records],
        "best_epoch": best.epoch,
        "training_loss": best.train_loss,
        "validation_loss": best.val_loss,
    }


def library_versions() -> dict[str, str]:
    """Versions of what may change a result."""
    return {"python": platform.python_version(), **{package: version(package) for package in _LIBRARIES}}
