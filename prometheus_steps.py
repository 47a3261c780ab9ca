"""How the answers of a Prometheus become a table: one row per server and step, and one column per metric.

The value of a query at a time describes the step that ends then, and its row carries the time at which that step
begins. So nothing that was measured after a step is in it. Knows nothing of where the tables go.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_contract import ImportMappingError, shorten
from prometheus_chunks import Plan, iso_moment
from prometheus_mapping import PROFILE_COLUMN, SERVER_COLUMN, TIME_COLUMN, PrometheusMapping
from prometheus_query import Answer, Prometheus, TooMuchError

SURVEY_WINDOW_SECONDS: Final = 600
_SURVEY_MOMENTS: Final = 24
_USUAL_SCRAPE_SECONDS: Final = 60  # Prometheus' default, where nothing better is known
_SCRAPES_PER_WINDOW: Final = 4  # one may fail, and still there are two samples to take a rate of
_MAX_NOTES: Final = 20

Singles = npt.NDArray[np.float32]


class StepReader:
    """Asks the queries of a mapping, and makes tables of the answers.

    Parameters
    ----------
    prometheus : Prometheus
    mapping : PrometheusMapping
    plan : Plan
        Which steps are wanted; what is learnt of them is kept in it.
    """

    def __init__(self, prometheus: Prometheus, mapping: PrometheusMapping, plan: Plan) -> None:
        self._prometheus = prometheus
        self._mapping = mapping
        self._plan = plan

    def survey(self, moments: int = _SURVEY_MOMENTS) -> dict[str, Answer]:
        """Look how many series there are and how often they are scraped, and note both in the plan.

        Parameters
        ----------
        moments : int
            How many steps of the plan's range are looked at.

        Returns
        -------
        dict
            What each query gives then, by metric.

        Raises
        ------
        ImportMappingError
            If a query cannot be evaluated, gives no server's name, or several series for most servers.
        TooMuchError
            If a query is too much for a single step.
        PrometheusError
            If there is no answer.
        """
        seen = self._look(moments)
        self._plan.most_series = max((len(answer.labels) for answer in seen.values()), default=0)
        for metric, answer in seen.items():
            self._refuse_many_series(metric, answer)
        self._plan.window_seconds = self._window(seen)
        return seen

    def absent(self, found: set[str]) -> list[str]:
        """Metrics that the mapping wants and that are not among those found."""
        metrics = self._mapping.prometheus.metrics
        return [metric for metric, section in metrics.items() if not section.optional and metric not in found]

    def refuse_what_is_absent(self, found: set[str]) -> None:
        """Refuse a mapping whose queries find something, but not all that it wants.

        Raises
        ------
        ImportMappingError
        """
        plan, absent = self._plan, self.absent(found)
        if absent and found:
            queries = self._mapping.queries(plan.step_seconds, plan.window_seconds or plan.step_seconds)
            listed = "\n".join(f"    - `{metric}`: {' '.join(queries[metric].split())}" for metric in absent)
            raise ImportMappingError(
                f"The Prometheus has nothing for these queries between {_span(plan)}, but for others it has:\n{listed}",
                why="The whole metric would be missing although the mapping asks for it.",
                fix="Correct the query (a misspelt metric or label gives no error, but nothing), or set `optional = "
                "true` if it may be missing, or is rare.",
            )

    def _look(self, moments_at_most: int) -> dict[str, Answer]:
        """What each query gives at some moments of the range."""
        plan, seen = self._plan, {}
        queries = self._mapping.queries(plan.step_seconds, max(SURVEY_WINDOW_SECONDS, plan.step_seconds))
        steps = (plan.until - plan.since) // plan.step_seconds
        for metric, query in queries.items():
            moments = min(moments_at_most, steps)
            while True:
                apart = max(steps // moments, 1) * plan.step_seconds
                first = plan.until - (moments - 1) * apart
                try:
                    seen[metric] = self._prometheus.query_range(query, first, plan.until, apart)
                    break
                except TooMuchError:
                    if moments == 1:
                        raise
                    moments //= 2
                except ImportMappingError as error:
                    raise _of_metric(error, metric) from error
        return seen

    def _window(self, seen: dict[str, Answer]) -> int:
        """What `$window` stands for: the step, or as many scrape intervals as a rate needs."""
        plan, given = self._plan, self._mapping.prometheus.window_seconds
        selectors = self._mapping.rated_series()
        if given is not None or not selectors:
            return given or plan.step_seconds
        intervals = []
        for selector, metric in selectors.items():
            times = seen[metric].times
            found = self._scrape_seconds(selector, float(times.max())) if len(times) else None
            if found is not None:
                intervals.append(found)
        longest = max(intervals, default=_USUAL_SCRAPE_SECONDS)
        window = max(plan.step_seconds, int(np.ceil(_SCRAPES_PER_WINDOW * longest)))
        if window > plan.step_seconds:
            plan.notes.append(
                f"rates are taken over {window} s, which is longer than the step of {plan.step_seconds} s, because a "
                f"rate needs {_SCRAPES_PER_WINDOW} scrapes and there is one every {longest:g} s: they are smoothed"
            )
        return window

    def _scrape_seconds(self, selector: str, at: float) -> float | None:
        """Usual time between two samples of some of the series that a selector finds; None if that is not known."""
        apart: list[float] = []
        try:
            for labels in self._prometheus.query(f"topk(5, {selector})", at).labels:
                exactly = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
                samples = self._prometheus.query(f"{{{exactly}}}[30m]", at)
                apart += np.diff(samples.times).tolist()
        except (ImportMappingError, TooMuchError):  # another server's dialect, or a selector that we misread
            return None
        return float(np.median(apart)) if apart else None

    def _refuse_many_series(self, metric: str, answer: Answer) -> None:
        """Several series for most servers at the same time are a query that was not aggregated."""
        names = [self._mapping.server_of(metric, labels) for labels in answer.labels]
        servers = {name for name in names if name is not None}
        if answer.labels and not servers:
            section = self._mapping.prometheus
            label = section.metrics[metric].server_label or section.server_label
            raise ImportMappingError(
                f"`{metric}`: no series has a server's name in the label {label!r}; the labels are "
                f"{shorten(answer.labels[0])}.",
                why="A value without its server cannot be placed.",
                fix=f"Keep the label in the query (`by ({label})`), or correct `server_label` or `server_pattern`.",
            )
        seen: dict[str, set[float]] = {name: set() for name in servers}
        several: set[str] = set()
        moments = iter(answer.times.tolist())
        for name, count in zip(names, answer.counts, strict=True):
            own = set(islice(moments, count))
            if name is not None:
                several |= set() if seen[name].isdisjoint(own) else {name}
                seen[name] |= own
        if 2 * len(several) > len(servers):
            name = min(several)
            found = [labels for labels, owner in zip(answer.labels, names, strict=True) if owner == name]
            raise ImportMappingError(
                f"`{metric}`: the query gives more than one series per server, e.g. {len(found)} for {name}: "
                f"{shorten(found, 2)}.",
                why="A metric has one value per server and step, and which one is meant would be a guess.",
                fix="Aggregate in the query, e.g. `avg by (instance) (…)` or `sum by (instance) (…)`.",
            )

    # -------------------------------------------------------------------------------------------------------- steps
    def read(self, begin: int, steps: int) -> pa.Table:
        """Rows of so many steps: one per server and step, and those of surplus series at the end.

        Parameters
        ----------
        begin : int
            Beginning of the first step, seconds since 1970.
        steps : int
            Of the plan's length.

        Returns
        -------
        Table
            Time, server, what states its profile if the mapping names such labels, and the metrics of the mapping in
            its units (float32, null where there is nothing).

        Raises
        ------
        TooMuchError
            If an answer is too large or takes too long.
        ImportMappingError
            If a query cannot be evaluated.
        PrometheusError
            If there is no answer.
        """
        plan = self._plan
        step = plan.step_seconds
        names: dict[str, int] = {}
        profiles: list[str | None] = []
        parts: dict[str, _Part] = {}
        for metric, query in self._mapping.queries(step, plan.window_seconds).items():
            try:
                answer = self._prometheus.query_range(query, begin + step, begin + steps * step, step)
            except ImportMappingError as error:
                raise _of_metric(error, metric) from error
            plan.most_series = max(plan.most_series, len(answer.labels))
            parts[metric] = self._part(metric, answer, begin, names, profiles)
        settled = {metric: part.settle(len(names), steps) for metric, part in parts.items()}
        grids = {metric: grid for metric, (grid, _) in settled.items()}
        self._join(grids)
        there = np.logical_or.reduce([~np.isnan(grid) for grid in grids.values()])
        server, place = np.nonzero(there)
        columns = {metric: grid[server, place] for metric, grid in grids.items()}
        listed = list(names)
        for metric, (_, surplus) in settled.items():  # the importer's rules decide which of two values counts
            part = parts[metric].at(surplus)
            if self._mapping.prometheus.metrics[metric].join:
                part = part.at(np.flatnonzero(there[part.server, part.place]))
            if not len(part.values):
                continue
            about = f"some servers have more than one series of {metric} at a time, of which the first counts"
            self.note(f"{about}, e.g. {listed[part.server[0]]}")
            server, place = np.append(server, part.server), np.append(place, part.place)
            nothing = np.full(len(part.values), np.nan, np.float32)
            for other, column in columns.items():
                columns[other] = np.append(column, part.values if other == metric else nothing)
        found = [metric for metric, values in columns.items() if not np.isnan(values).all()]
        plan.found += [metric for metric in found if metric not in plan.found]
        for warning in self._prometheus.warnings:
            self.note(f"the Prometheus warns: {warning}")
        times = (begin + place.astype(np.int64) * step) * 1_000_000
        table = {
            TIME_COLUMN: pa.array(times).cast(pa.timestamp("us", tz="UTC")),
            SERVER_COLUMN: _dictionary(server, listed),
        }
        if self._mapping.profile_labels:
            table[PROFILE_COLUMN] = _dictionary(server, profiles)
        return pa.table(table | {metric: pa.array(values, from_pandas=True) for metric, values in columns.items()})

    def _part(
        self, metric: str, answer: Answer, begin: int, names: dict[str, int], profiles: list[str | None]
    ) -> _Part:
        """What one query gave, series numbered by server; servers that are new are added to `names`."""
        servers = np.full(len(answer.labels), -1, np.int64)
        ranks = np.zeros(len(answer.labels), np.int64)  # 0: the first series of its server, in the order of labels
        seen: dict[int, int] = {}
        order = sorted(range(len(answer.labels)), key=lambda place: sorted(answer.labels[place].items()))
        for place in order:
            labels = answer.labels[place]
            name = self._mapping.server_of(metric, labels)
            if name is None:
                self.note(f"series of {metric} whose labels name no server were left out, e.g. {shorten(labels)}")
                continue
            if name not in names:
                names[name] = len(names)
                profiles.append(None)
            code = names[name]
            stated = next((labels[label] for label in self._mapping.profile_labels if labels.get(label)), None)
            profiles[code] = profiles[code] or stated
            servers[place], ranks[place] = code, seen.get(code, 0)
            seen[code] = seen.get(code, 0) + 1
        series = np.repeat(np.arange(len(answer.labels)), answer.counts)
        places = np.rint((answer.times - begin) / self._plan.step_seconds).astype(np.int64) - 1
        with np.errstate(over="ignore"):  # beyond single precision: infinite, which the importer counts
            values = answer.values.astype(np.float32)
        known = (servers[series] >= 0) & ~np.isnan(values)
        return _Part(servers[series][known], ranks[series][known], places[known], values[known])

    def _join(self, grids: dict[str, Singles]) -> None:
        """Take out values that count only together with others."""
        metrics = self._mapping.prometheus.metrics
        others = np.logical_or.reduce([~np.isnan(grid) for metric, grid in grids.items() if not metrics[metric].join])
        for metric, grid in grids.items():
            if metrics[metric].join:
                grid[~others] = np.nan

    def note(self, text: str) -> None:
        """Keep something that is worth telling, once for all its examples."""
        about = text.partition(", e.g.")[0]
        known = {note.partition(", e.g.")[0] for note in self._plan.notes}
        if about not in known and len(known) < _MAX_NOTES:
            self._plan.notes.append(text)


@dataclass(frozen=True)
class _Part:
    """What one query gave for a chunk, point by point: server, rank of the series within it, step, value."""

    server: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    values: Singles

    def at(self, points: npt.NDArray[np.intp]) -> _Part:
        """Some of the points."""
        return _Part(self.server[points], self.rank[points], self.place[points], self.values[points])

    def settle(self, servers: int, steps: int) -> tuple[Singles, npt.NDArray[np.intp]]:
        """Values by server and step, NaN where there is none, and the points that found their place taken.

        The first series that has a value counts, so one that takes over from another, whose labels changed, is whole.
        """
        grid = np.full((servers, steps), np.nan, np.float32)
        taken = np.zeros((servers, steps), np.int64)
        order = np.argsort(-self.rank, kind="stable")  # the first series last: what is written last stays
        grid[self.server[order], self.place[order]] = self.values[order]
        taken[self.server[order], self.place[order]] = self.rank[order]
        surplus = np.flatnonzero(self.rank > taken[self.server, self.place])
        return grid, surplus[np.argsort(self.rank[surplus], kind="stable")]


def _dictionary(codes: npt.NDArray[np.int64], texts: Sequence[str | None]) -> pa.Array:
    """Texts by their places; null where there is none."""
    absent = np.array([text is None for text in texts], np.bool_)
    indices = pa.array(codes.astype(np.int32), mask=absent[codes])
    return pa.DictionaryArray.from_arrays(indices, pa.array([text or "" for text in texts], pa.string()))


def _span(plan: Plan) -> str:
    return f"{iso_moment(plan.since)} and {iso_moment(plan.until)}"


def _of_metric(error: ImportMappingError, metric: str) -> ImportMappingError:
    return ImportMappingError(f"`{metric}`: {error.what}", why=error.why, fix=error.fix)


def _self_check() -> None:
    none = np.zeros(0, np.int64)
    part = _Part(
        np.array([0, 1, 0, 0]), np.array([0, 0, 1, 1]), np.array([1, 0, 1, 0]), np.arange(5, 9, dtype=np.float32)
    )
    grid, surplus = part.settle(2, 2)
    assert np.nan_to_num(grid, nan=-1).tolist() == [[8, 5], [6, -1]] and surplus.tolist() == [2]
    assert _dictionary(np.array([1, 0]), ["a", None]).to_pylist() == [None, "a"]
    assert _Part(none, none, none, none.astype(np.float32)).settle(0, 3)[0].shape == (0, 3)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
