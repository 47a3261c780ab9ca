"""What the daemon's answers look like: the models behind `/docs`, and the checks of what goes in by the address.

The large answers are served as ready bytes and not built from these models on every request; the tests hold them
against these. Knows nothing of how the content comes about.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

PRODUCT_VERSION = "0.1.0"


class Answer(BaseModel):
    """An answer with exactly these members."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Health(Answer):
    """Whether the daemon runs, and whether it can forecast."""

    status: Literal["ok"]
    model_loaded: bool


class Live(Answer):
    """The process answers."""

    status: Literal["ok"]


class Ready(Answer):
    """Forecasts can be asked for."""

    status: Literal["ready"]


class Problem(BaseModel):
    """An error (RFC 9457): `type`, `title`, `status`, `detail`, and what, why, fix and document."""

    type: str = Field(examples=["urn:tft:problem:no-model"])
    title: str
    status: int
    detail: str
    what: str
    why: str
    fix: str
    document: str


class MetricValues(Answer):
    """One value per metric; null for a metric that the server does not report."""

    cpu_pct: float | None
    mem_pct: float | None
    disk_io_mb_s: float | None
    latency_ms: float | None


class HorizonValues(Answer):
    """Values 30 minutes, 1 hour and 8 hours ahead."""

    in_30min: MetricValues = Field(alias="30min")
    in_1hr: MetricValues = Field(alias="1hr")
    in_8hr: MetricValues = Field(alias="8hr")


class QuantileValues(Answer):
    """The range that the value lies in with 80 % probability (p10 to p90), and its median."""

    p10: HorizonValues
    p50: HorizonValues
    p90: HorizonValues


class Prediction(Answer):
    """Forecast of one server: `predictions` are medians, `risk` the probability of a critical value within 8 hours."""

    server_name: str
    profile: str
    prediction_time: AwareDatetime
    predictions: HorizonValues
    quantiles: QuantileValues
    risk: float | None = Field(ge=0, le=1)
    risk_metric: str | None
    risks: MetricValues
    state: str | None
    current: MetricValues
    known: bool = Field(description="false: the model was not trained on this server")


class ModelName(Answer):
    """The model that made a forecast."""

    name: str
    model_version: str


class OfflineServer(Answer):
    """A server that is silent for too long to be forecast."""

    server_name: str
    profile: str
    state: Literal["offline"]
    stale: Literal[True]
    last_seen: AwareDatetime


class Provenance(Answer):
    """What every answer with forecasts tells: which model, from when, and how old the data is."""

    model: ModelName
    prediction_time: AwareDatetime | None
    generated_at: AwareDatetime
    data_age_seconds: float | None
    stale: bool


class CurrentPredictions(Provenance):
    """Forecasts of the whole fleet, or a page of them; a page also tells how many match and where the next begins."""

    count: int
    total: int | None = None
    next_cursor: str | None = None
    predictions: list[Prediction]
    offline: list[OfflineServer]


class QuantilePath(Answer):
    """One value for each of the 96 steps."""

    p10: list[float]
    p50: list[float]
    p90: list[float]


class MetricPaths(Answer):
    """Forecast path of each metric; null for a metric that the server does not report."""

    cpu_pct: QuantilePath | None
    mem_pct: QuantilePath | None
    disk_io_mb_s: QuantilePath | None
    latency_ms: QuantilePath | None


class ForecastPath(Answer):
    """All 96 steps of a forecast."""

    step_minutes: int
    timestamps: list[AwareDatetime]
    metrics: MetricPaths


class ServerPrediction(Prediction, Provenance):
    """Forecast of one server with its whole path."""

    prediction_time: AwareDatetime
    path: ForecastPath


class MetricSeries(Answer):
    """One value per step, null where nothing was measured."""

    cpu_pct: list[float | None]
    mem_pct: list[float | None]
    disk_io_mb_s: list[float | None]
    latency_ms: list[float | None]


class History(Answer):
    """What was measured on one server, averaged over 5-minute steps."""

    server_name: str
    profile: str
    step_minutes: int
    timestamps: list[AwareDatetime]
    metrics: MetricSeries
    states: list[str | None]


class BreachTime(Answer):
    """When the threshold is crossed by the 90 %, 50 % and 10 % quantile; null where not within 8 hours."""

    earliest: AwareDatetime | None
    median: AwareDatetime | None
    latest: AwareDatetime | None


class Acknowledged(Answer):
    """Who has seen an alert and takes care of it."""

    author: str
    comment: str
    at: AwareDatetime


class Alert(Answer):
    """A metric of a server that will probably become critical."""

    server_name: str
    profile: str
    metric: str
    unit: str
    threshold: float
    probability: float
    median_forecast: float | None
    breach_time: BreachTime
    lead_time_minutes: float | None
    opened_at: AwareDatetime
    message: str
    id: str = Field(description="the same for the alert's life", examples=["3f0c7c1be0a94d52"])
    acknowledged: Acknowledged | None
    silenced_by: list[str] = Field(description="ids of the silences that hold for it: it is not sent")


class ActiveAlerts(Provenance):
    """Alerts that are open now."""

    count: int
    alerts: list[Alert]


class IngestRow(BaseModel):
    """One measurement. Metrics may be null or left out; `state` and `profile` are then derived by the contract."""

    timestamp: str = Field(examples=["2026-01-05T10:00:00Z"])
    server_name: str = Field(examples=["ppweb001"])
    cpu_pct: float | None = None
    mem_pct: float | None = None
    disk_io_mb_s: float | None = None
    latency_ms: float | None = None
    state: str | None = None
    profile: str | None = None


class IngestRequest(BaseModel):
    """Rows to take in; the bare list is taken, too."""

    rows: list[IngestRow]


class Rejection(Answer):
    """A row that was not taken in."""

    row: int
    server_name: str | None
    what: str


class IngestResult(Answer):
    """What became of the rows; the accepted ones are on disk."""

    accepted: int
    duplicates: int
    rejected: int
    errors: list[Rejection]


class ModelStatus(ModelName):
    """The loaded model."""

    contract_version: str
    trained_at: str | None
    known_servers: int
    profiles: list[str]


class ErrorParts(Answer):
    """What went wrong, why it matters, how to fix it and where to read on."""

    what: str
    why: str
    fix: str
    document: str


class ServerCount(Answer):
    """Some servers: how many, and the names of the first twenty."""

    count: int
    names: list[str]


class HistoryStatus(Answer):
    """What is kept on disk.

    `set_aside` names a damaged file that was moved out of the way at the start; `rescued_rows` were saved out of it.
    `days` have a Parquet file of their own; `damaged_days` names those of them that were set aside since the start.
    """

    rows: int
    oldest: AwareDatetime | None
    newest: AwareDatetime | None
    set_aside: str | None
    rescued_rows: int
    days: int
    damaged_days: list[str]


class ForecastStatus(Answer):
    """How forecasting goes: milliseconds per batch, forecasts of single servers per second of forecasting."""

    count: int
    errors: int
    last_duration_ms: float
    average_duration_ms: float
    predictions_per_second: float
    error_rate: float


class IngestStatus(Answer):
    """Rows since the start."""

    accepted: int
    duplicates: int
    rejected: int


class PullStatus(Answer):
    """How a Prometheus is asked: until when all is there, how far that is behind, and why it fails if it does."""

    until: AwareDatetime | None
    behind_seconds: int | None
    last_success: AwareDatetime | None
    rows: IngestStatus
    errors: int
    error: ErrorParts | None
    absent_metrics: list[str]
    notes: list[str]


class RiskSettings(Answer):
    """The settings behind colours, risks and alerts."""

    risk_yellow: float
    risk_red: float
    critical_thresholds: dict[str, float]
    profile_thresholds: dict[str, dict[str, float]]
    stale_after_minutes: float
    offline_after_minutes: float


class AccessStatus(Answer):
    """Whether API keys are asked for; `problem` says why a changed file of keys is not in force."""

    keys_required: bool
    active_keys: int
    problem: ErrorParts | None


class Status(Answer):
    """Everything about the daemon at a glance."""

    status: Literal["ok"]
    version: str
    model_loaded: bool
    model: ModelStatus | None
    model_error: ErrorParts | None
    started_at: AwareDatetime
    uptime_seconds: float
    servers: int
    unknown_servers: ServerCount
    offline_servers: ServerCount
    history: HistoryStatus
    prediction_time: AwareDatetime | None
    generated_at: AwareDatetime | None
    data_age_seconds: float | None
    stale: bool
    forecasts: ForecastStatus
    ingest: IngestStatus
    pull: PullStatus | None
    access: AccessStatus
    settings: RiskSettings


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a body that a route reads by itself, without references, which would lead nowhere in OpenAPI."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return whole(parts[node["$ref"].rpartition("/")[2]])
            return {key: whole(value) for key, value in node.items()}
        return [whole(each) for each in node] if isinstance(node, list) else node

    found: dict[str, Any] = whole(schema)
    return found


def problems(**described: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses of the problems that a route may answer with, e.g. `problems(s503="no model")`."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in described.items()}
