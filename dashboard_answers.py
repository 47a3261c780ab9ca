"""What the daemon's answers must look like before the dashboard shows them, and what one look at the daemon yields.

Every answer is checked field by field here, so that a renamed or missing field becomes a message instead of an empty
or, worse, a green panel. Knows nothing of HTTP, pandas or Streamlit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from data_contract import CONTRACT_VERSION

DASHBOARD_DOCUMENT: Final = "Docs/DASHBOARD_GUIDE.md"

# ------------------------------------------------------------------------------------------------------------- answers
Reading = Annotated[float, Field(allow_inf_nan=False)] | None  # null: the server does not report this metric
Series = list[Reading]


class MetricReadings(TypedDict):
    """One value per metric of the contract."""

    cpu_pct: Reading
    mem_pct: Reading
    disk_io_mb_s: Reading
    latency_ms: Reading


# Written as calls because the keys are no identifiers.
HorizonReadings = TypedDict("HorizonReadings", {"30min": MetricReadings, "1hr": MetricReadings, "8hr": MetricReadings})


class QuantileReadings(TypedDict):
    """The served quantiles of every horizon and metric."""

    p10: HorizonReadings
    p50: HorizonReadings
    p90: HorizonReadings


class Prediction(TypedDict):
    """Forecast of one server."""

    server_name: str
    profile: str
    prediction_time: AwareDatetime
    predictions: HorizonReadings
    quantiles: QuantileReadings
    risk: Reading
    risk_metric: str | None
    risks: MetricReadings
    state: str | None
    current: MetricReadings
    known: bool


class ModelName(TypedDict):
    """Which model made the forecasts."""

    name: str
    model_version: str


class SilentServer(TypedDict):
    """A server that has not reported for too long to be forecast."""

    server_name: str
    profile: str
    last_seen: AwareDatetime


class CurrentAnswer(TypedDict):
    """`GET /predictions/current`."""

    model: ModelName | None
    prediction_time: AwareDatetime | None
    data_age_seconds: Reading
    stale: bool
    count: int
    predictions: list[Prediction]
    offline: NotRequired[list[SilentServer]]


class BreachTime(TypedDict):
    """When a metric is expected to cross its threshold; null where not within the horizon."""

    earliest: AwareDatetime | None
    median: AwareDatetime | None
    latest: AwareDatetime | None


class Acknowledged(TypedDict):
    """Who takes care of an alert."""

    author: str
    comment: str
    at: AwareDatetime


class Alert(TypedDict):
    """One open alert."""

    server_name: str
    profile: str
    metric: str
    unit: str
    threshold: float
    probability: float
    median_forecast: Reading
    breach_time: BreachTime
    lead_time_minutes: Reading
    opened_at: AwareDatetime
    message: str
    id: NotRequired[str]
    acknowledged: NotRequired[Acknowledged | None]
    silenced_by: NotRequired[list[str]]


class AlertsAnswer(TypedDict):
    """`GET /alerts/active`."""

    count: int
    alerts: list[Alert]


class ModelInfo(ModelName):
    """The loaded model, as `/status` tells it."""

    contract_version: str
    trained_at: AwareDatetime | None
    known_servers: int
    profiles: list[str]


class RiskSettings(TypedDict):
    """The settings that decide what is yellow, red and critical."""

    risk_yellow: float
    risk_red: float
    critical_thresholds: dict[str, float]
    profile_thresholds: dict[str, dict[str, float]]
    stale_after_minutes: float


class StatusAnswer(TypedDict):
    """`GET /status`; the counters are shown as they come."""

    version: str
    model_loaded: bool
    model: ModelInfo | None
    model_error: dict[str, Any] | None
    started_at: AwareDatetime
    uptime_seconds: float
    servers: int
    unknown_servers: dict[str, Any]
    history: dict[str, Any]
    prediction_time: AwareDatetime | None
    data_age_seconds: Reading
    stale: bool
    forecasts: dict[str, Any]
    ingest: dict[str, Any]
    settings: RiskSettings
    generated_at: NotRequired[Any]


class QuantileSeries(TypedDict):
    """A forecast's way through the horizon."""

    p10: Series
    p50: Series
    p90: Series


class Path(TypedDict):
    """Forecast of every step; null for a metric that the server does not report."""

    step_minutes: float
    timestamps: list[AwareDatetime]
    metrics: dict[str, QuantileSeries | None]


class ServerAnswer(Prediction):
    """`GET /predictions/{server_name}`."""

    path: Path


class HistoryAnswer(TypedDict):
    """`GET /history/{server_name}`; null where nothing was measured."""

    server_name: str
    profile: str
    step_minutes: float
    timestamps: list[AwareDatetime]
    metrics: dict[str, Series | None]
    states: list[str | None]


class PastForecastsAnswer(TypedDict):
    """`GET /forecasts/{server_name}`: what had been forecast for each step, null where nothing was."""

    horizon: str
    timestamps: list[AwareDatetime]
    metrics: dict[str, QuantileSeries]


class ServerSeries(TypedDict):
    """One metric of a server, measured and forecast."""

    metric: str
    first_measured: AwareDatetime
    measured: Series
    first_forecast: AwareDatetime
    forecast: QuantileSeries | None


class SeriesAnswer(TypedDict):
    """One metric of several servers, by name."""

    step_minutes: float
    servers: dict[str, ServerSeries]


class AttendedHour(TypedDict):
    """How much of a forecast's attention a past hour has."""

    hours_before: float
    share: float
    measured: float


class Attention(TypedDict):
    """Where a forecast looked."""

    past_hours: list[AttendedHour]
    ahead: float
    without_data: float


class Reason(TypedDict):
    """`GET /explain/{server_name}`: shares, the largest first."""

    sentence: str
    past: dict[str, float]
    attention: Attention
    anchors: dict[str, dict[str, dict[str, float]] | None]


class PastAlert(TypedDict):
    """An alert that is or was open."""

    id: str
    server_name: str
    metric: str
    threshold: float
    highest_probability: float
    opened_at: AwareDatetime
    closed_at: AwareDatetime | None
    acknowledged: Acknowledged | None
    outcome: str | None


class PastAlertsAnswer(TypedDict):
    """`GET /alerts/history`, the last opened first."""

    count: int
    alerts: list[PastAlert]


class Silence(TypedDict):
    """Alerts of a server, a profile or a metric that are not sent for a while."""

    id: str
    server_name: str | None
    profile: str | None
    metric: str | None
    author: str
    comment: str
    ends_at: AwareDatetime
    state: str


class SilencesAnswer(TypedDict):
    """`GET /alerts/silences`."""

    count: int
    silences: list[Silence]


class ListedModel(TypedDict):
    """A model that lies beside the one that is served."""

    name: str
    served: bool
    created_at: str | None
    servers: float | None
    validation: dict[str, Any] | None
    problem: str | None


class ModelsAnswer(TypedDict):
    """`GET /models`."""

    refused: dict[str, Any] | None
    models: list[ListedModel]


class ScenarioAnswer(TypedDict):
    """`GET /scenario`: what a demo's fleet is to play; null before anybody asked."""

    scenario: str | None


class SnapshotAnswer(TypedDict):
    """`GET /snapshot`: parts that are answers of their own, and why others are missing."""

    parts: dict[str, Any]
    problems: dict[str, Any]
    set: str | None
    data_age_seconds: NotRequired[Reading]
    stale: NotRequired[bool | None]


class OddAnswerError(ValueError):
    """An answer that does not look as the daemon's answers do; the text names the first field at fault."""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def check_answer(kind: Any, body: Any) -> Any:
    """Return `body` as the given kind of answer, times parsed.

    Raises
    ------
    OddAnswerError
        If a field is missing, of another type, or if series differ in length.
    """
    try:
        answer = _adapter(kind).validate_python(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise OddAnswerError(f"`{'.'.join(str(part) for part in fault['loc'])}`: {fault['msg']}") from None
    if kind is CurrentAnswer:
        listed = (*answer["predictions"], *answer.get("offline", ()))
        names = [server["server_name"] for server in listed]
        if len(set(names)) != len(names):
            raise OddAnswerError("`predictions`: a server is listed twice")
    series: list[tuple[str, list[Any], int]] = []
    if kind is PastForecastsAnswer:
        series = [
            (f"{name}.{quantile}", values, len(answer["timestamps"]))
            for name, quantiles in answer["metrics"].items()
            for quantile, values in quantiles.items()
        ]
    elif kind is HistoryAnswer:
        series = [(name, values, len(answer["timestamps"])) for name, values in answer["metrics"].items() if values]
    elif kind is ServerAnswer:
        path = answer["path"]
        series = [
            (f"path.{name}.{quantile}", values, len(path["timestamps"]))
            for name, quantiles in path["metrics"].items()
            if quantiles
            for quantile, values in quantiles.items()
        ]
    for name, values, length in series:
        if len(values) != length:
            raise OddAnswerError(f"`{name}`: {len(values)} values for {length} times")
    return answer


# ------------------------------------------------------------------------------------------------------------ snapshot
Condition = Literal[
    "live",
    "stale",
    "empty",
    "no_model",
    "unreachable",
    "odd_answer",
    "wrong_version",
    "unauthorised",
    "rate_limited",
    "not_found",
    "failed",
]


@dataclass(frozen=True)
class Problem:
    """Why something cannot be shown, told in the four parts that every error of the product has."""

    condition: Condition
    what: str
    why: str
    fix: str
    document: str = DASHBOARD_DOCUMENT


@dataclass(frozen=True)
class Answer:
    """One answered (or failed) request, kept for the Advanced panel."""

    path: str
    status_code: int | None
    body: Any
    milliseconds: float
    size_bytes: int
    problem: Problem | None = None
    source: str = "GET"  # `demo` when nobody was asked


PART_KINDS: Final[dict[str, Any]] = {
    "status": StatusAnswer,
    "current": CurrentAnswer,
    "alerts": AlertsAnswer,
    "prediction": ServerAnswer,
    "history": HistoryAnswer,
    "forecasts": PastForecastsAnswer,
    "past_alerts": PastAlertsAnswer,
    "silences": SilencesAnswer,
    "series": SeriesAnswer,
    "reasons": dict[str, Reason],
    "models": ModelsAnswer,
    "scenario": ScenarioAnswer,
}


@dataclass(frozen=True)
class Wanted:
    """What one look at the daemon asks for: parts of `GET /snapshot` and which server, hours and servers they are of.

    `servers` are those of the parts `series` and `reasons`; `metrics` of `series` are one for all or one for each.
    """

    parts: tuple[str, ...]
    server: str = ""
    hours: int = 24
    until: datetime | None = None
    horizon: str = ""
    servers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """All that one look at the daemon (or at the demo) yields.

    Attributes
    ----------
    parts : mapping
        The answers that were asked for and could be had, by name.
    part_problems : mapping
        Why the others could not.
    problem : Problem or None
        What keeps all panels from being drawn.
    set_id : str or None
        Tells one set of forecasts from another.
    scenario : str or None
        Name of the demo scenario; None: real data.
    """

    address: str
    fetched_at: datetime
    parts: Mapping[str, Any] = field(default_factory=dict)
    part_problems: Mapping[str, Problem] = field(default_factory=dict)
    problem: Problem | None = None
    answers: tuple[Answer, ...] = ()
    set_id: str | None = None
    scenario: str | None = None

    @property
    def status(self) -> StatusAnswer | None:
        """The daemon's status."""
        return cast("StatusAnswer | None", self.parts.get("status"))

    @property
    def current(self) -> CurrentAnswer | None:
        """The fleet's forecasts."""
        return cast("CurrentAnswer | None", self.parts.get("current"))

    @property
    def alerts(self) -> list[Alert] | None:
        """Open alerts; None where they were not asked for or could not be had."""
        answer: AlertsAnswer | None = self.parts.get("alerts")
        return None if answer is None else answer["alerts"]

    @property
    def past_alerts(self) -> list[PastAlert]:
        """Alerts of the last hours, the last opened first."""
        answer: PastAlertsAnswer | None = self.parts.get("past_alerts")
        return [] if answer is None else answer["alerts"]

    @property
    def silences(self) -> list[Silence]:
        """Silences that hold or will."""
        answer: SilencesAnswer | None = self.parts.get("silences")
        return [] if answer is None else answer["silences"]

    @property
    def prediction(self) -> ServerAnswer | None:
        """Forecast of the server that was asked for."""
        return cast("ServerAnswer | None", self.parts.get("prediction"))

    @property
    def history(self) -> HistoryAnswer | None:
        """What was measured on that server."""
        return cast("HistoryAnswer | None", self.parts.get("history"))

    @property
    def forecasts(self) -> PastForecastsAnswer | None:
        """What had been forecast for it."""
        return cast("PastForecastsAnswer | None", self.parts.get("forecasts"))

    @property
    def series(self) -> dict[str, ServerSeries]:
        """One metric of several servers."""
        answer: SeriesAnswer | None = self.parts.get("series")
        return {} if answer is None else answer["servers"]

    @property
    def reasons(self) -> dict[str, Reason]:
        """Explanations that are ready, by server."""
        return cast("dict[str, Reason]", self.parts.get("reasons") or {})

    @property
    def models(self) -> ModelsAnswer | None:
        """Models that there are."""
        return cast("ModelsAnswer | None", self.parts.get("models"))

    @property
    def played(self) -> ScenarioAnswer | None:
        """What the fleet of a demo's daemon plays; None of any other daemon."""
        return cast("ScenarioAnswer | None", self.parts.get("scenario"))

    @property
    def condition(self) -> Condition:
        """In which of the designed states the page is."""
        if self.problem is not None:
            return self.problem.condition
        if self.current is None or not (self.current["predictions"] or self.current.get("offline")):
            return "empty"
        return "stale" if self.current["stale"] else "live"

    @property
    def model(self) -> ModelName | None:
        """Model behind the forecasts, as far as an answer told it."""
        if self.current is not None and self.current["model"] is not None:
            return self.current["model"]
        return self.status["model"] if self.status is not None else None


def version_problem(status: StatusAnswer) -> Problem | None:
    """What to say when the daemon's model follows another generation of the contract."""
    model = status["model"]
    if model is None or model["contract_version"].split(".")[0] == CONTRACT_VERSION.split(".")[0]:
        return None
    return Problem(
        "wrong_version",
        f"The daemon serves contract {model['contract_version']}; this dashboard reads contract {CONTRACT_VERSION}.",
        "Between generations of the contract fields change their meaning, so that the panels could mislead.",
        "Run the dashboard and the daemon from the same release of the product.",
        "Docs/MIGRATIONS.md",
    )
