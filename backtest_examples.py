"""Which forecasts a person should look at: of each metric the worst one, typical ones, and one of an unseen server.

They are chosen on the way through all windows, in memory that does not grow, and then forecast once more. Knows nothing
of how they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backtest_origins import Judge
from backtest_scores import KNOWN, Floats
from baselines import Method
from common_utils import iso_z
from data_contract import METRIC_COLUMNS, SERVED_QUANTILES
from fleet_grid import DAY_STEPS, FleetGrid, time_of

_PAST_STEPS = DAY_STEPS
_DIGITS = 3


@dataclass(frozen=True)
class Window:
    """One server's metric from one origin, with the median's mean absolute error."""

    error: float
    server: int
    number: int


class Examples:
    """Chooses windows; its `watch` is to be shown the errors of all of them.

    Parameters
    ----------
    judge : Judge
        Where the windows are.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        n_metrics = len(METRIC_COLUMNS)
        self._worst: list[Window | None] = [None] * n_metrics
        self._middle: list[list[Window]] = [[] for _ in range(n_metrics)]
        self._middle_unseen: list[list[Window]] = [[] for _ in range(n_metrics)]

    def watch(self, number: int, servers: slice, errors: Floats) -> None:
        """Look at the errors of some servers from one origin, (servers, n_metrics), NaN where there are none."""
        unseen = self._judge.kinds[servers] != KNOWN
        for k in range(len(METRIC_COLUMNS)):
            of_metric = errors[:, k]
            there = np.flatnonzero(np.isfinite(of_metric))
            if not len(there):
                continue
            ranked = there[np.argsort(of_metric[there], kind="stable")]
            last = self._window(of_metric, ranked[-1], servers, number)
            worst = self._worst[k]
            if worst is None or last.error > worst.error:
                self._worst[k] = last
            self._middle[k].append(self._window(of_metric, ranked[len(ranked) // 2], servers, number))
            its = ranked[unseen[ranked]]
            if len(its):
                self._middle_unseen[k].append(self._window(of_metric, its[len(its) // 2], servers, number))

    def _window(self, errors: Floats, place: np.int64, servers: slice, number: int) -> Window:
        return Window(float(errors[place]), servers.start + int(place), number)

    def records(self, method: Method, quantiles: Sequence[float]) -> list[dict[str, Any]]:
        """The chosen windows with their past, what was forecast, and what came true."""
        found = []
        for k, metric in enumerate(METRIC_COLUMNS):
            chosen = {"typical": _typical(self._middle[k]), "largest error": self._worst[k]}
            chosen["typical, server not learned from"] = _typical(self._middle_unseen[k])
            for why, window in chosen.items():
                if window is not None:
                    found.append(self._record(method, quantiles, metric, k, window, why))
        return found

    def histories(self, most: int) -> list[FleetGrid]:
        """What was known when the chosen windows were forecast, each of one server; the typical ones first."""
        middle, unseen = ([_typical(windows) for windows in kind] for kind in (self._middle, self._middle_unseen))
        chosen = dict.fromkeys(
            (window.number, window.server) for window in (*middle, *unseen, *self._worst) if window is not None
        )
        return [self._judge.known_at(number, slice(server, server + 1)) for number, server in list(chosen)[:most]]

    def _record(
        self, method: Method, quantiles: Sequence[float], metric: str, k: int, window: Window, why: str
    ) -> dict[str, Any]:
        server = slice(window.server, window.server + 1)
        known = self._judge.known_at(window.number, server)
        forecast = method.forecast(known, known.n_steps)[0, :, k]
        places = {f"{level:g}": _nearest(quantiles, level) for level in SERVED_QUANTILES.values()}
        labels = self._judge.labels(server, window.number)
        return {
            "server": known.names[0],
            "profile": known.profiles[0],
            "held_out": bool(self._judge.kinds[window.server] != KNOWN),
            "metric": metric,
            "origin": iso_z(time_of(known.origin_step - 1)),
            "past": _numbers(known.values[0, -_PAST_STEPS:, k]),
            "actual": _numbers(labels.truth[0, :, k]),
            "quantiles": {level: _numbers(forecast[:, place]) for level, place in places.items()},
            "mae": round(window.error, _DIGITS),
            "why": why,
        }


def _typical(windows: list[Window]) -> Window | None:
    """The one in the middle; of equals, the first in time."""
    ranked = sorted(windows, key=lambda window: (window.error, window.number, window.server))
    return ranked[len(ranked) // 2] if ranked else None


def _nearest(quantiles: Sequence[float], level: float) -> int:
    return int(np.argmin(np.abs(np.asarray(quantiles) - level)))


def _numbers(values: npt.NDArray[np.floating[Any]]) -> list[float | None]:
    """Numbers for JSON, None where there are none."""
    return [round(float(value), _DIGITS) if np.isfinite(value) else None for value in values]
