"""What the daemon tells a Prometheus about itself: the content of `/metrics`.

A registry of its own, so that nothing that a library registers slips in. What the daemon counts anyway is read off its
status at every scrape; only requests are counted here. Labels come from fixed sets: routes as declared, methods,
statuses, outcomes. Knows nothing of the routes or of what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
# A GET of ready bytes takes a millisecond, a large body seconds; 20 ms is what 99 of 100 requests must stay under
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class DaemonMetrics:
    """All metrics of one daemon.

    Parameters
    ----------
    status : callable
        Gives the content of /status.
    open_alerts : callable
        Gives the number of open alerts, None while there are no forecasts.
    delivery : callable
        Gives the content of /alerts/delivery.
    """

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        open_alerts: Callable[[], int | None],
        delivery: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tft_http_requests",
            "Requests answered, by route as declared, method (WS: WebSocket) and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tft_http_request_duration_seconds",
            "Time from a request's first byte to the end of its answer.",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_StatusCollector(status, open_alerts, delivery))

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered; how long a WebSocket stays open is its client's affair."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        if method != "WS":
            self._seconds.labels(route).observe(seconds)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that an Accept header asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _StatusCollector(Collector):
    """Metrics that are read off the daemon's status when they are asked for."""

    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        open_alerts: Callable[[], int | None],
        delivery: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._status = status
        self._open_alerts = open_alerts
        self._delivery = delivery

    def describe(self) -> Iterator[Metric]:
        """Nothing: to be registered must not ask for a status that is not there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every metric as it is now; what is not known is left out."""
        status = self._status()
        forecasts = status["forecasts"]
        # The four that the product promises for forecasting
        yield _gauge(
            "tft_predictions_per_second",
            "Servers forecast per second of forecasting, since the start.",
            forecasts["predictions_per_second"],
        )
        yield _gauge(
            "tft_average_latency_seconds",
            "Average time from a fleet's history to answers that are ready, since the start.",
            forecasts["average_duration_ms"] / 1e3,
        )
        yield _gauge("tft_error_rate", "Share of the attempts to forecast that failed.", forecasts["error_rate"])
        yield _gauge(
            "tft_unknown_servers",
            "Servers being forecast that the model was not trained on.",
            status["unknown_servers"]["count"],
        )

        yield _counter("tft_forecasts", "Times that the fleet was forecast.", forecasts["count"])
        yield _counter("tft_forecast_errors", "Times that forecasting the fleet failed.", forecasts["errors"])
        yield _gauge(
            "tft_last_forecast_duration_seconds",
            "Time that the newest forecast of the fleet took.",
            forecasts["last_duration_ms"] / 1e3 if forecasts["count"] else None,
        )
        yield _gauge("tft_data_age_seconds", "Age of the newest row.", status["data_age_seconds"])
        yield _gauge("tft_data_stale", "1 if the newest row is too old, or there is none.", status["stale"])
        yield _gauge("tft_alerts_open", "Alerts that are open.", self._open_alerts())
        yield _gauge("tft_servers", "Servers of which history is in memory.", status["servers"])
        yield _gauge("tft_servers_offline", "Servers that are silent for too long.", status["offline_servers"]["count"])
        yield _gauge("tft_store_rows", "Rows on disk.", status["history"]["rows"])
        yield _gauge(
            "tft_store_set_aside",
            "1 if a damaged history was found at the start.",
            bool(status["history"]["set_aside"]),
        )

        yield _gauge(
            "tft_store_day_files", "Days of the history in a Parquet file of their own.", status["history"]["days"]
        )
        damaged = len(status["history"]["damaged_days"])
        yield _gauge("tft_store_damaged_day_files", "Such files that were found damaged since the start.", damaged)

        rows = CounterMetricFamily("tft_ingest_rows", "Rows sent, by what became of them.", labels=["result"])
        for result, count in status["ingest"].items():
            if isinstance(count, int):
                rows.add_metric([result], count)
        yield rows

        pull = status["pull"]
        if pull is not None:
            yield _gauge(
                "tft_pull_failing", "1 if the Prometheus could not be asked the last time.", bool(pull["error"])
            )
            yield _gauge(
                "tft_pull_behind_seconds", "Time of which steps are still to be fetched.", pull["behind_seconds"]
            )
            yield _counter("tft_pull_errors", "Times that the Prometheus could not be asked.", pull["errors"])

        model = status["model"]
        yield _gauge("tft_model_loaded", "1 if there is a model to forecast with.", model is not None)
        yield _gauge("tft_model_refused", "1 if the model folder cannot be used.", status["model_error"] is not None)
        if model is not None:
            labels = {name: str(model[name]) for name in ("name", "model_version", "contract_version")}
            yield InfoMetricFamily("tft_model", "The model in use.", labels)
        yield InfoMetricFamily("tft_build", "The release that runs.", {"version": status["version"]})

        delivery = self._delivery()
        failing = GaugeMetricFamily(
            "tft_alert_delivery_failing", "1 while a receiver of alerts does not take them.", labels=["receiver"]
        )
        for receiver, way in delivery.items():
            if way["configured"]:
                failing.add_metric([receiver], float(way["failing_since"] is not None))
        yield failing
        webhook = delivery["webhook"]
        yield _gauge("tft_alert_events_waiting", "Events that the webhook has not taken yet.", webhook["waiting"])
        yield _counter("tft_alert_events_given_up", "Events that became dead letters.", webhook["dead_letters"])

        access = status["access"]
        yield _gauge("tft_api_keys_active", "API keys in force.", access["active_keys"])
        yield _gauge("tft_api_keys_damaged", "1 if the file of API keys cannot be read.", access["problem"] is not None)


def _gauge(name: str, about: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, about, value=None if value is None else float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(name, about, value=float(value))
