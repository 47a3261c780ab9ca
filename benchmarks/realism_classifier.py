"""Whether a classifier can tell two kinds of windows apart, and by what.

Gradient boosting on the features of single days, judged on servers that it has never seen. An area under the ROC curve
of 0.5 means that it guesses, 1.0 that it is never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from realism_features import LEAST_VALUES, quantiles, window_features
from realism_fleets import Fleet
from realism_measures import DAY, by_day, daily_share
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]

# Windows that are alike in these are compared in the second number per profile.
_CPU_P50_BINS: Final = (0.5, 1.5, 4.0, 10.0, 20.0, 40.0)
_CPU_P95_BINS: Final = (1.0, 2.5, 6.0, 15.0, 35.0, 70.0)
_DAILY_BINS: Final = (0.05, 0.2, 0.5)

# Per side; with fewer, a classifier fails for want of examples, and that is no praise of the generator.
_LEAST_SERVERS: Final = 8
_LEAST_WINDOWS: Final = 100

_WINDOWS_FOR_LOSSES: Final = 200  # per fold: each is judged once per feature


class Pool:
    """All days of some fleets; their features are calculated when they are asked for, and kept.

    Attributes
    ----------
    group : array of str, (n_windows,)
        Server that a window is of. The recorded months are of the same machines, so a name stands for both months.
    profile : array of str, (n_windows,)
    month : int array, (n_windows,)
        Place of the window's fleet.
    coarse : int array, (n_windows,)
        Bin of CPU median, CPU p95 and the server's daily share.
    """

    def __init__(self, fleets: Sequence[Fleet], prefix: str) -> None:
        self._fleets = fleets
        places, groups, profiles, coarse = [], [], [], []
        for number, fleet in enumerate(fleets):
            cpu = by_day(fleet.metric(0))
            server, day = np.nonzero(np.isfinite(cpu).sum(2) >= LEAST_VALUES)
            places.append(np.stack([np.full(len(server), number), server, day], axis=1))
            groups.append(np.char.add(prefix, fleet.names[server]))
            profiles.append(fleet.profiles[server])
            p50, p95 = quantiles(cpu[server, day], (0.5, 0.95)).T
            daily = np.nan_to_num(daily_share(fleet.metric(0)))[server]
            bins = (np.digitize(p50, _CPU_P50_BINS), np.digitize(p95, _CPU_P95_BINS), np.digitize(daily, _DAILY_BINS))
            coarse.append((bins[0] * 10 + bins[1]) * 10 + bins[2])
        self._places = np.concatenate(places)
        self.group, self.profile = np.concatenate(groups), np.concatenate(profiles)
        self.month, self.coarse = self._places[:, 0], np.concatenate(coarse)
        self._features: Floats | None = None
        self._known = np.zeros(len(self._places), bool)
        self.kinds: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._places)

    def features(self, index: Integers) -> Floats:
        """Features of some windows, (n_index, n_features); the names are the keys of `kinds`."""
        missing = np.unique(index[~self._known[index]])
        if len(missing):
            number, server, day = self._places[missing].T
            windows = np.stack(
                [
                    self._fleets[n].values[s, :, d * DAY : (d + 1) * DAY]
                    for n, s, d in zip(number, server, day, strict=True)
                ]
            )
            values, self.kinds = window_features(windows)
            if self._features is None:
                self._features = np.full((len(self), len(values)), np.nan)
            self._features[missing] = np.stack(list(values.values()), axis=1)
            self._known[missing] = True
        assert self._features is not None
        return self._features[index]


@dataclass(frozen=True)
class Verdict:
    """How well two kinds of windows can be told apart."""

    auc: float
    auc_std: float  # over the folds
    windows: int  # of the first kind; the second has about as many
    servers: int
    # Feature → what hiding it costs in held-out log loss (nats); only where it was asked for
    importance: dict[str, float] = field(default_factory=dict)


def draw(rng: np.random.Generator, index: Integers, most: int) -> Integers:
    """At most that many of the windows."""
    return index if len(index) <= most else np.sort(rng.choice(index, most, replace=False))


def draw_matched(
    rng: np.random.Generator, one: Pool, first: Integers, two: Pool, second: Integers, most: int
) -> tuple[Integers, Integers]:
    """Windows of both pools with the same coarse level: from every bin as many of one as of the other."""
    mine: list[Integers] = []
    theirs: list[Integers] = []
    for code in np.unique(one.coarse[first]):
        here, there = first[one.coarse[first] == code], second[two.coarse[second] == code]
        count = min(len(here), len(there))
        if count:
            mine.append(rng.choice(here, count, replace=False))
            theirs.append(rng.choice(there, count, replace=False))
    if not mine:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both = np.stack([np.concatenate(mine), np.concatenate(theirs)])
    kept = draw(rng, np.arange(both.shape[1]), most)
    return both[0, kept], both[1, kept]


def tell_apart(
    features: Floats,
    is_second: npt.NDArray[np.bool_],
    group: npt.NDArray[np.str_],
    names: Sequence[str],
    *,
    folds: int,
    seed: int,
    important: bool = False,
) -> Verdict | None:
    """Train and judge by grouped cross-validation; None if a side has too few servers or windows to learn from.

    Parameters
    ----------
    features : array, (n_windows, n_features)
    is_second : bool array, (n_windows,)
        Which of the two kinds a window is of: about as many of one as of the other.
    group : array of str, (n_windows,)
        Server of each window: none is in the training and the judged part of a fold.
    names : sequence of str
        Of the features.
    important : bool
        Also measure what each feature contributes: the log loss on held-out windows after it was shuffled.
    """
    sides = [len(np.unique(group[is_second == side])) for side in (False, True)]
    if min(sides) < _LEAST_SERVERS or min(is_second.sum(), (~is_second).sum()) < _LEAST_WINDOWS:
        return None
    rng = np.random.default_rng([seed, 1])
    fold = deal_servers(group, is_second, folds, rng)
    areas: list[float] = []
    losses = np.zeros(len(names))
    for number in range(folds):
        train, test = fold != number, fold == number
        if len(np.unique(is_second[test])) < 2 or len(np.unique(is_second[train])) < 2:
            continue
        model = HistGradientBoostingClassifier(
            max_iter=80, learning_rate=0.15, max_leaf_nodes=12, min_samples_leaf=15, l2_regularization=1.0, max_bins=64,
            early_stopping=False, random_state=seed,
        )  # fmt: skip
        model.fit(features[train], is_second[train])
        chances = model.predict_proba(features[test])[:, 1]
        areas.append(float(roc_auc_score(is_second[test], chances)))
        if important:
            judged = draw(rng, np.flatnonzero(test), _WINDOWS_FOR_LOSSES)
            losses += _losses_when_hidden(model, features[judged], is_second[judged], rng)
            losses -= _log_loss(model.predict_proba(features[judged])[:, 1], is_second[judged])
    importance = dict(zip(names, (losses / max(len(areas), 1)).tolist(), strict=True)) if important else {}
    return Verdict(float(np.mean(areas)), float(np.std(areas)), int((~is_second).sum()), min(sides), importance)


def deal_servers(
    group: npt.NDArray[np.str_], is_second: npt.NDArray[np.bool_], folds: int, rng: np.random.Generator
) -> Integers:
    """Fold of each window: all of a server in one, and the servers of each side spread evenly.

    The same as scikit-learn's StratifiedGroupKFold for windows drawn evenly; that takes seconds for 500 servers.
    """
    servers, of_window = np.unique(group, return_inverse=True)
    sides = np.stack([np.bincount(of_window[is_second == side], minlength=len(servers)) > 0 for side in (False, True)])
    fold = np.empty(len(servers), np.int64)
    start = 0
    for kind in np.unique(sides, axis=1).T:
        members = rng.permutation(np.flatnonzero((sides == kind[:, None]).all(0)))
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return fold[of_window]


def _losses_when_hidden(
    model: HistGradientBoostingClassifier,
    features: Floats,
    truth: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    at_once: int = 24,
) -> Floats:
    """Log loss after each feature in turn was shuffled among the windows, (n_features,)."""
    windows, count = features.shape
    found = np.empty(count)
    for begin in range(0, count, at_once):  # many in one call: a call costs more than its windows
        places = range(begin, min(begin + at_once, count))
        hidden = np.tile(features, (len(places), 1, 1))
        for turn, place in enumerate(places):
            hidden[turn, :, place] = rng.permutation(features[:, place])
        chances = model.predict_proba(hidden.reshape(-1, count))[:, 1].reshape(len(places), windows)
        found[begin : begin + len(places)] = [_log_loss(each, truth) for each in chances]
    return found


def _log_loss(chances: Floats, truth: npt.NDArray[np.bool_]) -> float:
    of_truth = np.clip(np.where(truth, chances, 1 - chances), 1e-9, 1.0)
    return float(-np.log(of_truth).mean())
