"""How forecasts are scored, window by window, in memory that does not grow: CRPS, MASE, MAE, coverage, calibration.

    scores = Scores(quantiles)
    scores.add(forecast, labels)                  # as often as there are windows
    scores.merge(others)                          # of another process
    scores.rows("tft")                            # per metric, profile, horizon, state and kind of server

Only sums are kept, so scores of any number of windows come out as if all had been there at once. NumPy alone; knows
nothing of where forecasts and labels come from.

CRPS and MASE are those of GIFT-Eval (Aksu et al., arXiv:2410.10393): CRPS is the mean over the nine deciles of
2 × sum of the quantile loss / sum of |label|; MASE (Hyndman and Koehler, 2006) is the mean over servers and origins of
the median's mean absolute error / mean |y_t − y_(t − 1 day)| over all that came before the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS, VALID_PROFILES, VALID_STATES

# First and last step of what is scored together: the served steps by themselves, and what lies between them.
BANDS: Final[dict[str, tuple[int, int]]] = {
    **{name: (step, step) for name, step in HORIZONS.items()},
    "0-30min": (1, 6),
    "30min-1hr": (7, 12),
    "1-2hr": (13, 24),
    "2-4hr": (25, 48),
    "4-8hr": (49, 96),
}

# Kinds of servers: learned from; held out and generic; held out, of a profile that others were learned from
KNOWN, HELD_OUT_GENERIC, HELD_OUT = 0, 1, 2
_KINDS = 3

ALL_METRICS: Final = "all"
_DECILES = tuple(k / 10 for k in range(1, 10))
_LABELS, _ABS_LABEL, _ABS_ERROR, _ERROR, _INSIDE, _WIDTH, _PLAIN = range(7)

Floats = npt.NDArray[np.float64]
Score = dict[str, float | int | None]


@dataclass(frozen=True)
class Labels:
    """What came true in a batch of windows.

    Attributes
    ----------
    truth : float array, (windows, 96, n_metrics)
        In the metrics' units; NaN where nothing was measured, or where no forecast is asked for.
    states : int8 array, (windows, 96)
        Place in `VALID_STATES` of each step, -1 for none.
    profiles : int array, (windows,)
        Place in `VALID_PROFILES`.
    kinds : int array, (windows,)
        `KNOWN`, `HELD_OUT_GENERIC` or `HELD_OUT`.
    scale : float array, (windows, n_metrics)
        What MASE divides by; 0 or NaN where it has no say.
    not_asked : int
        Values that were measured, but for which no forecast is asked for.
    """

    truth: npt.NDArray[np.floating[Any]]
    states: npt.NDArray[np.int8]
    profiles: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int64]
    scale: npt.NDArray[np.floating[Any]]
    not_asked: int = 0

    def of(self, windows: npt.NDArray[np.int64]) -> Labels:
        """Those of some of the windows."""
        return Labels(
            self.truth[windows],
            self.states[windows],
            self.profiles[windows],
            self.kinds[windows],
            self.scale[windows],
        )


class Scores:
    """Sums over all windows that were added, from which every score follows.

    Parameters
    ----------
    quantiles : sequence of float
        Levels of the forecasts, ascending, with the deciles among them.

    Attributes
    ----------
    crossings : int
        Steps at which quantiles of a metric cross.
    unanswered : int
        Labels for which there was no forecast.
    not_asked : int
        Values for which none was asked for.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self.quantiles = tuple(quantiles)
        self._levels = np.asarray(self.quantiles)
        self._deciles = [_place(self.quantiles, level) for level in _DECILES]
        self._low, self._middle, self._high = (_place(self.quantiles, level) for level in (0.1, 0.5, 0.9))
        n_metrics, n_sums = len(METRIC_COLUMNS), _PLAIN + 2 * len(self.quantiles)
        groups = {"step": HORIZON_STEPS, "profile": len(VALID_PROFILES), "state": len(VALID_STATES), "kind": _KINDS}
        self._sums = {group: np.zeros((size, n_metrics, n_sums)) for group, size in groups.items()}
        groups["step"] = len(BANDS)
        self._scaled = {group: np.zeros((size, n_metrics, 2)) for group, size in groups.items()}
        self._scaled["all"] = np.zeros((1, n_metrics, 2))
        self.crossings = 0
        self.unanswered = 0
        self.not_asked = 0

    def add(self, forecast: npt.NDArray[np.floating[Any]], labels: Labels) -> Floats:
        """Take in forecasts and what came true.

        Parameters
        ----------
        forecast : float array, (windows, 96, n_metrics, n_quantiles)
            NaN where there is none; all quantiles or none.

        Returns
        -------
        float array, (windows, n_metrics)
            Mean absolute error of the median of each window, NaN where nothing could be compared.
        """
        forecast = np.asarray(forecast, dtype=np.float64)
        truth = np.asarray(labels.truth, dtype=np.float64)
        answered = np.isfinite(forecast).all(axis=-1)
        asked = np.isfinite(truth)
        seen = asked & answered
        self.unanswered += int((asked & ~answered).sum())
        self.not_asked += labels.not_asked
        self.crossings += int(((np.diff(forecast, axis=-1) < 0).any(axis=-1) & answered).sum())

        sums = self._per_label(np.where(seen[..., None], forecast, 0.0), np.where(seen, truth, 0.0))
        sums *= seen[..., None]
        per_window = sums.sum(axis=1)
        self._sums["step"] += sums.sum(axis=0)
        np.add.at(self._sums["profile"], labels.profiles, per_window)
        np.add.at(self._sums["kind"], labels.kinds, per_window)
        in_state = labels.states[..., None] == np.arange(len(VALID_STATES), dtype=np.int8)  # (windows, 96, states)
        flat = in_state.reshape(-1, len(VALID_STATES)).astype(np.float64)
        by_state = flat.T @ sums.reshape(len(flat), -1)
        self._sums["state"] += by_state.reshape(self._sums["state"].shape)

        error = sums[..., _ABS_ERROR]
        self._add_scaled(error, seen, in_state, labels)
        with np.errstate(invalid="ignore"):
            mean: Floats = per_window[..., _ABS_ERROR] / per_window[..., _LABELS]
        return mean

    def _per_label(self, forecast: Floats, truth: Floats) -> Floats:
        """What is summed up, of every label, (windows, 96, n_metrics, sums)."""
        error = truth[..., None] - forecast
        sums = np.empty((*truth.shape, _PLAIN + 2 * len(self.quantiles)))
        low, median, high = (forecast[..., place] for place in (self._low, self._middle, self._high))
        sums[..., _LABELS] = 1.0
        sums[..., _ABS_LABEL] = np.abs(truth)
        sums[..., _ABS_ERROR] = np.abs(truth - median)
        sums[..., _ERROR] = median - truth
        sums[..., _INSIDE] = (truth >= low) & (truth <= high)
        sums[..., _WIDTH] = high - low
        n = len(self.quantiles)
        sums[..., _PLAIN : _PLAIN + n] = np.maximum(self._levels * error, (self._levels - 1) * error)
        sums[..., _PLAIN + n :] = _shares_below(error, self._levels)
        return sums

    def _add_scaled(
        self, error: Floats, seen: npt.NDArray[np.bool_], in_state: npt.NDArray[np.bool_], labels: Labels
    ) -> None:
        """Sum up windows' errors in units of their scale; over all steps, and over those of each band and state."""
        scale = np.asarray(labels.scale, dtype=np.float64)
        scale = np.where(scale > 0, scale, np.nan)

        def scaled(errors: Floats, counts: Floats) -> Floats:
            """(…, 2): a window's share of the sum, and whether it has one."""
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = errors / counts / scale
            return np.stack([np.nan_to_num(ratio, nan=0.0, posinf=0.0), np.isfinite(ratio)], axis=-1)

        whole = scaled(error.sum(axis=1), seen.sum(axis=1))  # (windows, n_metrics, 2)
        self._scaled["all"][0] += whole.sum(axis=0)
        np.add.at(self._scaled["profile"], labels.profiles, whole)
        np.add.at(self._scaled["kind"], labels.kinds, whole)
        for place, (first, last) in enumerate(BANDS.values()):
            band = slice(first - 1, last)
            self._scaled["step"][place] += scaled(error[:, band].sum(axis=1), seen[:, band].sum(axis=1)).sum(axis=0)
        for place in range(len(VALID_STATES)):
            of_state = in_state[..., place]
            if of_state.any():
                chosen = of_state[..., None]
                self._scaled["state"][place] += scaled((error * chosen).sum(axis=1), (seen & chosen).sum(axis=1)).sum(
                    axis=0
                )

    def merge(self, other: Scores) -> None:
        """Add what another process has summed up."""
        for own, others in ((self._sums, other._sums), (self._scaled, other._scaled)):
            for group in own:
                own[group] += others[group]
        self.crossings += other.crossings
        self.unanswered += other.unanswered
        self.not_asked += other.not_asked

    # -------------------------------------------------------------------------------------------------------- answers
    @property
    def labels(self) -> int:
        """Labels that were scored."""
        return int(self._sums["step"][..., _LABELS].sum())

    def rows(self, method: str) -> list[dict[str, Any]]:
        """All scores as flat records; groups without a label are left out, but for each metric as a whole."""
        steps = self._sums["step"]
        found = [*self._group(method, "all", "all", steps.sum(axis=0), self._scaled["all"][0], always=True)]
        for place, (band, (first, last)) in enumerate(BANDS.items()):
            sums = steps[first - 1 : last].sum(axis=0)
            found += self._group(method, "horizon", band, sums, self._scaled["step"][place])
        for group, names in (("profile", VALID_PROFILES), ("state", VALID_STATES)):
            for place, name in enumerate(names):
                found += self._group(method, group, name, self._sums[group][place], self._scaled[group][place])
        kinds = {"known": [KNOWN], "held_out": [HELD_OUT_GENERIC, HELD_OUT]}
        for value, places in kinds.items():
            found += self._group(method, "server", value, *self._of_kinds(places))
        return found

    def profile_rows(self, method: str, value: str) -> list[dict[str, Any]]:
        """Scores of the held-out servers that have a profile, under the group `profile_known`."""
        return [*self._group(method, "profile_known", value, *self._of_kinds([HELD_OUT]))]

    def _of_kinds(self, places: list[int]) -> tuple[Floats, Floats]:
        return self._sums["kind"][places].sum(axis=0), self._scaled["kind"][places].sum(axis=0)

    def calibration(self, method: str) -> list[dict[str, Any]]:
        """Of each metric and quantile, the share of labels below it: equal to its level if all is well."""
        sums = self._sums["step"].sum(axis=0)
        below = sums[:, -len(self.quantiles) :]
        return [
            {"method": method, "metric": metric, "quantile": level, "share_below": _of(below[k, q], sums[k, _LABELS])}
            for k, metric in enumerate(METRIC_COLUMNS)
            for q, level in enumerate(self.quantiles)
        ]

    def by_step(self, method: str) -> list[dict[str, Any]]:
        """Scores at each of the 96 steps."""
        kept = ("crps", "mae", "coverage_p10_p90", "sharpness")
        found = []
        for k, metric in enumerate(METRIC_COLUMNS):
            for step in range(HORIZON_STEPS):
                score = self._score(self._sums["step"][step, k])
                found.append(
                    {"method": method, "metric": metric, "step": step + 1, **{key: score[key] for key in kept}}
                )
        return found

    def _group(
        self, method: str, group: str, value: str, sums: Floats, scaled: Floats, *, always: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Records of each metric, and of all of them."""
        if not always and not sums[:, _LABELS].any():
            return
        records = []
        for k, metric in enumerate(METRIC_COLUMNS):
            score = self._score(sums[k], scaled[k])
            if always or score["labels"]:
                records.append({"method": method, "metric": metric, "group": group, "value": value, **score})
        yield {"method": method, "metric": ALL_METRICS, "group": group, "value": value, **mean_score(records)}
        yield from records

    def _score(self, sums: Floats, scaled: Floats | None = None) -> Score:
        """Scores of one metric."""
        n = float(sums[_LABELS])
        losses = sums[_PLAIN : _PLAIN + len(self.quantiles)][self._deciles]
        return {
            "crps": _of(2 * float(losses.mean()), sums[_ABS_LABEL]),
            "mase": None if scaled is None else _of(scaled[0], scaled[1]),
            "mae": _of(sums[_ABS_ERROR], n),
            "coverage_p10_p90": _of(sums[_INSIDE], n),
            "sharpness": _of(sums[_WIDTH], n),
            "bias": _of(sums[_ERROR], n),
            "labels": int(n),
        }


def mean_score(records: Sequence[Mapping[str, Any]]) -> Score:
    """Score over all metrics: the mean of what has no unit, and nothing of what has one."""

    def mean(key: str) -> float | None:
        values = [float(record[key]) for record in records if record[key] is not None]
        return sum(values) / len(values) if values else None

    return {
        "crps": mean("crps"),
        "mase": mean("mase"),
        "mae": None,
        "coverage_p10_p90": mean("coverage_p10_p90"),
        "sharpness": None,
        "bias": None,
        "labels": sum(int(record["labels"]) for record in records),
    }


def _place(quantiles: Sequence[float], level: float) -> int:
    """Where a level is among the quantiles: by value, never by position."""
    for place, each in enumerate(quantiles):
        if abs(each - level) < 1e-9:
            return place
    raise ValueError(f"quantile {level} is not among {tuple(quantiles)}")


def _shares_below(error: Floats, levels: Floats) -> Floats:
    """Whether each label is below each quantile, (…, n_quantiles), from label minus quantile.

    Idle servers stand at the very value that is forecast. Where a label is equal to several quantiles, their levels say
    how much of it counts as below each (the mean of the randomised probability integral transform of Brockwell, 2007):
    always below would say that a perfect forecast is too high, never that it is too low.
    """
    shares = (error < 0).astype(np.float64)
    tied = error == 0
    rows = tied.any(axis=-1)
    if rows.any():
        edges = np.concatenate([[0.0], levels, [1.0]])
        of_tied = error[rows]
        lower = edges[(of_tied > 0).sum(axis=-1)][:, None]
        upper = edges[(of_tied >= 0).sum(axis=-1) + 1][:, None]
        shares[rows] = np.where(tied[rows], (levels - lower) / (upper - lower), shares[rows])
    return shares


def _of(total: float, count: float) -> float | None:
    """A mean, None where there is nothing."""
    return float(total) / float(count) if count > 0 else None


def _self_check() -> None:
    rng = np.random.default_rng(0)
    levels = (0.02, *_DECILES, 0.98)
    truth = rng.normal(50, 10, (400, HORIZON_STEPS, len(METRIC_COLUMNS)))
    normal = {0.02: -2.054, 0.1: -1.282, 0.2: -0.842, 0.3: -0.524, 0.4: -0.253}
    offsets = np.array([normal.get(level, 0.0) - normal.get(round(1 - level, 2), 0.0) for level in levels])
    labels = Labels(
        truth,
        np.zeros(truth.shape[:2], dtype=np.int8),
        np.zeros(400, dtype=np.int64),
        np.zeros(400, dtype=np.int64),
        np.ones((400, len(METRIC_COLUMNS))),
    )
    scores = Scores(levels)
    scores.add(np.broadcast_to(50 + 10 * offsets, (*truth.shape, len(levels))), labels)
    whole = scores.rows("perfect")[1]
    assert abs(float(whole["coverage_p10_p90"]) - 0.8) < 0.01 and abs(float(whole["bias"])) < 0.2
    for row in scores.calibration("perfect"):
        assert abs(row["share_below"] - row["quantile"]) < 0.01
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
