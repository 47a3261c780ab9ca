"""Which methods people would use instead of the model, and what every method of forecasting is.

    method = make_baseline("seasonal_naive", QUANTILES)
    method.fit(grid, until)                       # learns from columns before `until` alone
    method.forecast(grid, column)                 # (n_servers, 96, n_metrics, n_quantiles), in the metrics' units

Each baseline is `BASELINES[name]`: a title, a sentence and what it needs. Knows nothing of scores or reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import baseline_boosting
import baseline_classical
from baseline_boosting import BoostingBaseline
from baseline_classical import classical_baseline
from baseline_linear import RidgeBaseline
from baseline_mlp import MlpBaseline
from baseline_naive import NaiveBaseline, last_value, mean_24, seasonal_naive
from baseline_windows import FloatArray, Progress
from fleet_grid import FleetGrid


class Method(Protocol):
    """A method of forecasting, the model or a baseline.

    Attributes
    ----------
    name : str
        For programs, e.g. `seasonal_naive`.
    title : str
        For people, e.g. `Same time yesterday`.
    """

    name: str
    title: str

    def fit(self, grid: FleetGrid, until: int, progress: Progress | None = None) -> None:
        """Learn from columns before `until` alone. Servers held out of training are not in the grid.

        Parameters
        ----------
        grid : FleetGrid
            May be mapped from files larger than the memory.
        until : int
            First column that must not be looked at.
        progress : callable, optional
            Called with the work done and the work in all.

        Raises
        ------
        TrainingError
            If there is too little to learn from.
        """

    def forecast(self, grid: FleetGrid, column: int) -> FloatArray:
        """Forecast every server of a grid, seen in `fit` or not, from columns before `column` alone.

        Returns
        -------
        float32 array, (n_servers, 96, n_metrics, n_quantiles)
            In the metrics' units and ranges, never decreasing along the quantiles. NaN where the method has nothing to
            say: baselines, where a metric was not reported in the eight days before.
        """


@dataclass(frozen=True)
class Baseline:
    """One of the methods to compare with.

    Attributes
    ----------
    name, title : str
        For programs and for people.
    sentence : str
        What it does.
    make : callable
        Makes the method from the quantile levels and a seed.
    package : str or None
        An optional package that it needs.
    unavailable : callable
        Says why it cannot run here and what to do about it; None if it can.
    slow : bool
        Whether a forecast fits a model to every series, some hundredths of a second each: to be tried on few origins.
    """

    name: str
    title: str
    sentence: str
    make: Callable[[Sequence[float], int], Method]
    package: str | None = None
    unavailable: Callable[[], str | None] = lambda: None
    slow: bool = False


def _naive(name: str, title: str, sentence: str, point: Callable[[FloatArray], FloatArray]) -> Baseline:
    return Baseline(name, title, sentence, lambda quantiles, seed: NaiveBaseline(name, title, point, quantiles, seed))


def _classical(name: str, title: str, sentence: str) -> Baseline:
    return Baseline(
        name,
        title,
        sentence,
        lambda quantiles, seed: classical_baseline(name, title, quantiles, seed),
        package="statsforecast",
        unavailable=baseline_classical.unavailable,
        slow=True,
    )


_ALL = (
    _naive("last_value", "Last value", "Everything stays as it was measured last.", last_value),
    _naive(
        "seasonal_naive",
        "Same time yesterday",
        "Every step is as it was 24 hours before, or on the newest day of the week that has a value there.",
        seasonal_naive,
    ),
    _naive("mean_24", "Mean of the last 24 hours", "Every step is the mean of the 288 steps before.", mean_24),
    Baseline(
        "ridge",
        RidgeBaseline.title,
        "A straight line through the last day and the same times 1, 2 and 7 days ago, for every step of its own.",
        RidgeBaseline,
    ),
    Baseline(
        "gradient_boosting",
        BoostingBaseline.title,
        "Trees over summaries of the past, fitted with the quantile loss, one ensemble per quantile.",
        BoostingBaseline,
        package="scikit-learn",
        unavailable=baseline_boosting.unavailable,
    ),
    Baseline(
        "mlp",
        MlpBaseline.title,
        "Three residual blocks of width 256 over the last day and the same times 1, 2 and 7 days ago.",
        MlpBaseline,
    ),
    _classical("auto_ets", "AutoETS", "Exponential smoothing, level and trend chosen by AICc, fitted to the last day."),
    _classical("auto_theta", "AutoTheta", "The best of four theta methods with a daily season, fitted to two days."),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}


def make_baseline(name: str, quantiles: Sequence[float], seed: int = 0) -> Method:
    """A fresh baseline; KeyError for a name that is not in `BASELINES`."""
    return BASELINES[name].make(quantiles, seed)


def _self_check() -> None:
    for name, baseline in BASELINES.items():
        method = make_baseline(name, (0.1, 0.5, 0.9))
        assert (method.name, method.title) == (baseline.name, baseline.title) and baseline.sentence.endswith(".")
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
