"""What a Prometheus is asked for, chunk by chunk of time, until all of a plan is there.

How answers become rows is told by `prometheus_steps.py`. Knows nothing of what the rows go through later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common_utils import utc_now
from data_contract import ImportMappingError, PrometheusError, shorten
from prometheus_chunks import Plan, Work, iso_moment
from prometheus_mapping import PrometheusMapping
from prometheus_query import Limits, Prometheus, TooMuchError
from prometheus_steps import SURVEY_WINDOW_SECONDS, StepReader

_LOOK_BACK_SECONDS: Final = 400 * 86_400  # where a Prometheus does not say how far back it goes
_LOOK_POINTS: Final = 400


class Fetch:
    """Fetches what is still missing of a plan, chunk by chunk."""

    def __init__(self, prometheus: Prometheus, mapping: PrometheusMapping, work: Work, limits: Limits) -> None:
        self._prometheus = prometheus
        self._mapping = mapping
        self._work = work
        self._limits = limits
        self._steps_at_most = limits.steps_per_request

    @property
    def _plan(self) -> Plan:
        assert self._work.plan is not None
        return self._work.plan

    def begin(self, since: int, until: int, step_seconds: int) -> None:
        """Make a plan, unless there is one already: look how many series there are, and how often they are scraped.

        Parameters
        ----------
        since, until : int
            Beginning of the first step and end of the last one, seconds since 1970.
        step_seconds : int
            Length of a step.
        """
        if self._work.plan is not None:
            if self._work.share_done < 1:
                self._prometheus.check()
            return
        self._prometheus.check()
        plan = Plan(self._prometheus.url, since, until, step_seconds)
        reader = StepReader(self._prometheus, self._mapping, plan)
        seen = reader.survey()
        reader.refuse_what_is_absent({metric for metric, answer in seen.items() if answer.labels})
        self._work.begin(plan)

    def run(self, advance: Callable[[float], None]) -> None:
        """Fetch until all chunks are there; `advance` is called with the share that is there, 0–1."""
        plan = self._plan
        reader = StepReader(self._prometheus, self._mapping, plan)
        advance(self._work.share_done)
        while self._work.done_until < plan.until:
            left = (plan.until - self._work.done_until) // plan.step_seconds
            fitting = max(self._limits.points_per_request // max(plan.most_series, 1), 1)
            steps = min(left, fitting, self._steps_at_most)
            before = (len(plan.found), len(plan.notes))
            try:
                rows = reader.read(self._work.done_until, steps)
            except TooMuchError:
                if steps == 1:
                    raise
                self._steps_at_most = steps // 2  # and no more: what was too much once would be again
                continue
            if before != (len(plan.found), len(plan.notes)):
                self._work.save_plan()  # for the report, should this end here
            self._work.keep(steps, rows)
            advance(self._work.share_done)
        if not plan.found:
            error = self._nothing_there(plan)
            self._work.remove()
            raise error
        try:
            reader.refuse_what_is_absent(set(plan.found))
        except ImportMappingError:
            self._work.remove()
            raise

    # ------------------------------------------------------------------------------------------------------ nothing
    def _nothing_there(self, plan: Plan) -> PrometheusError:
        """Error for a time range without data, with the one that has some as far as it can be found out cheaply."""
        found = self._where_there_is_data(plan)
        if found is not None:
            hint = f"It has data for them from about {iso_moment(found[0])} to {iso_moment(found[1])}"
            fix = "Choose --from and --to within that time."
        else:
            known = self._prometheus.head_metrics()
            hint = f"Of its metrics {shorten(known)} have the most series" if known else "It tells of no metrics at all"
            fix = (
                "See in its web page under Status → Targets whether it scrapes the exporters, and take a mapping for "
                "the metrics that it has; the address may also be that of another Prometheus."
            )
        return PrometheusError(
            f"The Prometheus at {plan.url} has nothing for the queries of the mapping “{self._mapping.name}” between "
            f"{iso_moment(plan.since)} and {iso_moment(plan.until)}. {hint}.",
            why="Without rows there is nothing to validate, learn from or forecast.",
            fix=fix,
        )

    def _where_there_is_data(self, plan: Plan) -> tuple[int, int] | None:
        """First and last time that has data, looked for at some moments of all times, and of both ends."""
        now = int(utc_now().timestamp())
        begin = int(self._prometheus.lowest_time() or now - _LOOK_BACK_SECONDS) + 300
        looks = [(begin, max((now - begin) // _LOOK_POINTS, 60)), (begin, 3600)]
        looks += [(now - (_LOOK_POINTS - 1) * apart, apart) for apart in (3600, 60)]
        window = max(plan.window_seconds, SURVEY_WINDOW_SECONDS)
        times: list[float] = []
        for query in self._mapping.queries(plan.step_seconds, window).values():
            for first, apart in looks:
                try:
                    end = min(first + (_LOOK_POINTS - 1) * apart, now)
                    answer = self._prometheus.query_range(f"group({query})", first, end, apart)
                except (ImportMappingError, TooMuchError):
                    continue
                except PrometheusError:  # away: nothing more can be said
                    return None
                times += [float(answer.times.min()), float(answer.times.max())] if len(answer.times) else []
        return (int(min(times)), int(max(times))) if times else None
