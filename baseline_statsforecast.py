"""What a classical model of statsforecast says of many series: a worker of its own, in a Python that has the package.

    python baseline_statsforecast.py AutoETS 1

It reads one line per request, the paths of two files: series to read (`.npy`, (n, length), without gaps) and forecasts
to write ((n, 96)); it answers each with a line, `done` or what went wrong. It ends when its input ends, so it cannot
outlive who asks. Imports nothing of the product, because the product is not installed where it runs.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

HORIZON = 96

Floats = npt.NDArray[np.float64]


def forecast_all(make: Callable[[], Any], series: Floats) -> Floats:
    """Points of each series, (n, 96); NaN where the model cannot be fitted."""
    points = np.full((len(series), HORIZON), np.nan)
    for row, values in enumerate(series):
        try:
            points[row] = make().forecast(y=values, h=HORIZON)["mean"]
        except Exception as error:  # noqa: BLE001  one series that an optimiser chokes on is no reason to lose the others
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return points


def main(arguments: list[str]) -> None:
    """Serve requests until the input ends."""
    model, season = arguments[0], int(arguments[1])
    models = importlib.import_module("statsforecast.models")
    print("ready", flush=True)
    for line in sys.stdin:
        source, target = line.rstrip("\n").split("\t")
        try:
            series = np.load(source, allow_pickle=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                points = forecast_all(lambda: getattr(models, model)(season_length=season), series)
            np.save(target, points, allow_pickle=False)
        except (OSError, ValueError) as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print("done", flush=True)


def _self_check() -> None:
    class LastValue:
        def forecast(self, y: Floats, h: int) -> dict[str, Floats]:
            return {"mean": np.full(h, y[-1])}

    assert forecast_all(LastValue, np.arange(6.0).reshape(2, 3))[:, 0].tolist() == [2, 5]
    print("✅ All tests passed")


if __name__ == "__main__":
    main(sys.argv[1:]) if len(sys.argv) > 1 else _self_check()
