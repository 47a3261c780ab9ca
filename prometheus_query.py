"""How a Prometheus is asked: PromQL over HTTP, with bounded sizes and times, retried where that helps.

Any server with Prometheus' HTTP API will do (Thanos, Mimir, VictoriaMetrics). Secrets come from the environment alone,
and redirects are not followed, so no secret reaches another host. Knows nothing of what is asked and why.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import time
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from data_contract import ConfigurationError, ImportMappingError, PrometheusError, shorten

if TYPE_CHECKING:
    import httpx2

DOCUMENT: Final = "Docs/IMPORTING.md"
TOKEN: Final = "TFT_PROMETHEUS_TOKEN"  # noqa: S105 - names of variables, not what is in them
USER: Final = "TFT_PROMETHEUS_USER"
PASSWORD: Final = "TFT_PROMETHEUS_PASSWORD"  # noqa: S105

_CONNECT_SECONDS: Final = 10.0
_FIRST_SECONDS: Final = 15.0  # for the first answer, which costs nothing to make
_LONGEST_WAIT_SECONDS: Final = 10.0  # between two attempts
_MAX_WARNINGS: Final = 10
# In the words of Prometheus, Thanos, Mimir and VictoriaMetrics. If it was something else, the same words come again
# when a single step is asked for, and are shown then.
_TOO_MUCH: Final = re.compile(r"too many|too long|too large|exceed|limit|maximum|timed? ?out|deadline", re.IGNORECASE)


class TooMuchError(PrometheusError):
    """An answer that is too large, or a query that takes too long: ask for less at once."""


class _Away(Exception):  # noqa: N818 - no error yet: it is asked again
    """It cannot answer now."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Limits:
    """How much is asked for at once, and for how long an answer is waited for.

    Attributes
    ----------
    points_per_request : int
        Values that one answer should hold: 250,000 are some 9 MB of JSON.
    steps_per_request : int
        Points per series; Prometheus refuses more than 11,000.
    answer_mb : float
        Largest answer that is read.
    query_seconds : float
        Time that a query may take.
    grace_seconds : float
        Time for the way of an answer, beside that.
    patience_seconds : float
        How long a Prometheus that went away is waited for.
    """

    points_per_request: int = 250_000
    steps_per_request: int = 10_000
    answer_mb: float = 128.0
    query_seconds: float = 60.0
    grace_seconds: float = 10.0
    patience_seconds: float = 60.0


@dataclass(frozen=True)
class Answer:
    """Series of an answer and their points, one behind the other.

    Attributes
    ----------
    labels : list of dict
        One per series.
    counts : list of int
        Points of each series.
    times : float64 array
        Seconds since 1970 of all points, series by series.
    values : float64 array
        Their values; "NaN" and "+Inf" of Prometheus are what they say.
    """

    labels: list[dict[str, str]]
    counts: list[int]
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Credentials:
    """A bearer token, or user and password, or none of them."""

    token: str | None = None
    user: str | None = None
    password: str | None = None

    @classmethod
    def from_environment(cls, environment: AnyMapping[str, str] = os.environ) -> Credentials:
        """What the environment variables say.

        Raises
        ------
        ConfigurationError
            If they contradict each other, or cannot be sent.
        """
        token, user, password = (environment.get(name, "").strip() or None for name in (TOKEN, USER, PASSWORD))
        if token is not None and (user is not None or password is not None):
            raise _bad_credentials(f"{TOKEN} and {USER} or {PASSWORD} are both set")
        if (user is None) != (password is None):
            raise _bad_credentials(f"{USER} and {PASSWORD} belong together, but one of them is not set")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise _bad_credentials(f"{TOKEN} holds spaces or other characters that no token has")
        if user is not None and ":" in user:
            raise _bad_credentials(f"{USER} holds a colon, which HTTP's basic authentication cannot send")
        return cls(token, user, password)

    def __repr__(self) -> str:
        return f"Credentials({self})"

    def __str__(self) -> str:
        if self.token is not None:
            return f"the token in {TOKEN}"
        return f"{USER} and {PASSWORD}" if self.user is not None else "no credentials"


class Prometheus:
    """A Prometheus at a URL; use it as a context manager.

    Parameters
    ----------
    url : str
        Address, as in the browser without what comes from `/graph` or `/api` on.
    credentials : Credentials
        Sent to this address and to no other.
    limits : Limits
        Bounds of answers.

    Raises
    ------
    ConfigurationError
        If the URL is none.
    """

    def __init__(self, url: str, credentials: Credentials | None = None, limits: Limits | None = None) -> None:
        self.url = checked_url(url)
        self.warnings: list[str] = []
        self._credentials = credentials or Credentials()
        self._limits = limits or Limits()
        self._known = False  # whether it has answered as a Prometheus does

    def __enter__(self) -> Prometheus:
        import httpx2

        auth: Any = None
        headers = {"Accept": "application/json"}
        if self._credentials.token is not None:
            headers["Authorization"] = f"Bearer {self._credentials.token}"
        elif self._credentials.user is not None:
            auth = httpx2.BasicAuth(self._credentials.user, self._credentials.password or "")
        self._client = httpx2.Client(
            headers=headers,
            auth=auth,
            trust_env=not _is_loopback(self.url),  # proxies, and certificates of the house
            follow_redirects=False,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check(self) -> None:
        """Make sure that a Prometheus answers here, without waiting for one that is away.

        Raises
        ------
        PrometheusError
            If nothing answers, something else does, or it refuses.
        """
        self._ask("query", {"query": "vector(1)"}, first=True)
        self._known = True

    def query(self, promql: str, at: float) -> Answer:
        """Values at one time, or, if the query ends with a range such as `[5m]`, the samples in it.

        Raises
        ------
        TooMuchError
            If the answer is too large or takes too long.
        ImportMappingError
            If the query cannot be evaluated, in Prometheus' words.
        PrometheusError
            If it does not answer, or not as a Prometheus does.
        """
        return self._series(self._ask("query", {"query": promql, "time": _seconds(at)}))

    def query_range(self, promql: str, start: float, end: float, step_seconds: float) -> Answer:
        """Values at every step from `start` to `end`, both included; raises what `query` raises."""
        form = {"query": promql, "start": _seconds(start), "end": _seconds(end), "step": _seconds(step_seconds)}
        answer = self._series(self._ask("query_range", form))
        if not np.all((answer.times >= start - 0.001) & (answer.times <= end + 0.001)):  # false for NaN, too
            raise self._not_one("it sends other times than were asked for")
        return answer

    def head_metrics(self) -> list[str]:
        """Names of the metrics with the most series now, as far as it tells."""
        try:
            data = self._ask("status/tsdb", None)
            return [str(each["name"]) for each in data["seriesCountByMetricName"]]
        except (PrometheusError, ImportMappingError, KeyError, TypeError):
            return []

    def lowest_time(self) -> float | None:
        """First time that it has data of, seconds since 1970, as far as it tells (on its own page of metrics)."""
        import httpx2

        deadline = time.monotonic() + _FIRST_SECONDS
        try:
            with self._client.stream("GET", f"{self.url}/metrics", timeout=_FIRST_SECONDS) as response:
                text = self._read(response, deadline).decode("utf-8", "replace")
            found = re.search(r"^prometheus_tsdb_lowest_timestamp_seconds (\S+)$", text, re.MULTILINE)
            lowest = float(found[1]) if found else 0.0
        except (httpx2.HTTPError, PrometheusError, ValueError):
            return None
        return lowest if 0 < lowest < time.time() else None

    # ------------------------------------------------------------------------------------------------------- asking
    def _ask(self, what: str, form: dict[str, str] | None, *, first: bool = False) -> Any:
        """Content of `data` of an answer; asked again while it is away, but not if it was never there."""
        import stamina

        seconds = self._limits.query_seconds + self._limits.grace_seconds
        if first:
            seconds = min(seconds, _FIRST_SECONDS)
        if form is not None:
            form = {**form, "timeout": f"{math.ceil(1000 * self._limits.query_seconds)}ms"}
        hooks = stamina.instrumentation.get_on_retry_hooks()
        stamina.instrumentation.set_on_retry_hooks([])  # told once at the end, not attempt by attempt
        try:
            for attempt in stamina.retry_context(
                on=_wait,
                attempts=1 if first else None,
                timeout=self._limits.patience_seconds,
                wait_initial=0.25,
                wait_max=_LONGEST_WAIT_SECONDS,
            ):
                with attempt:
                    data = self._attempt(what, form, seconds)
        except _Away as reason:
            raise self._silent(str(reason)) from reason
        finally:
            stamina.instrumentation.set_on_retry_hooks(hooks)
        return data

    def _attempt(self, what: str, form: dict[str, str] | None, seconds: float) -> Any:
        import httpx2

        url = f"{self.url}/api/v1/{what}"
        timeout = httpx2.Timeout(seconds, connect=_CONNECT_SECONDS)
        deadline = time.monotonic() + seconds
        try:
            with self._client.stream("GET" if form is None else "POST", url, data=form, timeout=timeout) as response:
                body = self._read(response, deadline)
        except (httpx2.ReadTimeout, httpx2.WriteTimeout) as error:
            if not self._known:
                raise _Away(f"no answer within {seconds:g} s") from error
            raise self._too_slow() from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Away(str(error) or type(error).__name__) from error
        except httpx2.InvalidURL as error:
            raise _bad_url(self.url, str(error)) from error
        return self._content(response, body)

    def _read(self, response: httpx2.Response, deadline: float) -> bytes:
        """The body, as long as it is not too large and does not come too slowly."""
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > self._limits.answer_mb * 1e6:
                raise TooMuchError(
                    f"An answer of the Prometheus at {self.url} is larger than {self._limits.answer_mb:g} MB.",
                    why="It would not fit into memory on every machine.",
                    fix="Aggregate in the query, e.g. `sum by (instance) (…)`: one series per server is wanted.",
                )
            if time.monotonic() > deadline:
                raise self._too_slow()
        return bytes(body)

    def _content(self, response: httpx2.Response, body: bytes) -> Any:
        status = response.status_code
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("status") == "success" and status == 200 and "data" in answer:
            self._warn(answer.get("warnings"))
            return answer["data"]
        message = str(answer.get("error") or "") if isinstance(answer, dict) else ""
        kind = answer.get("errorType") if isinstance(answer, dict) else None
        if status in {401, 403}:
            raise self._refused(status)
        if 300 <= status < 400:
            raise self._not_one(f"it redirects to {_shown_target(response.headers.get('location', ''))}")
        if kind in {"timeout", "canceled"} or status in {413, 504}:
            raise self._too_slow(message)
        if kind in {"bad_data", "execution"} or status in {400, 422}:
            if _TOO_MUCH.search(message) and "parse error" not in message:
                raise self._too_slow(message)
            if message and self._known:
                raise ImportMappingError(
                    f"The Prometheus at {self.url} cannot evaluate a query: {message}",
                    why="Without its answer the metric would be missing although you asked for it.",
                    fix="Correct the query in [prometheus.metrics.…]; try it in the web page of the Prometheus first.",
                )
        if status == 429 or status >= 500:
            said = f": {message}" if message else ""
            raise _Away(f"it answers {status} {response.reason_phrase}{said}", _retry_after(response))
        kind = response.headers.get("content-type", "").partition(";")[0] or "content of no stated type"
        raise self._not_one(f"the answer is {status} {response.reason_phrase}, {message or kind}")

    def _series(self, data: Any) -> Answer:
        """Series of the content of an answer."""
        labels: list[dict[str, str]] = []
        counts: list[int] = []
        times: list[float] = []
        texts: list[str] = []
        try:
            kind, result = data["resultType"], data["result"]
            if kind in {"scalar", "string"}:
                result = [{"metric": {}, "value": result}]
            for series in result:
                points = series["values"] if "values" in series else [series["value"]] if "value" in series else []
                if not points:
                    if "histogram" in series or "histograms" in series:
                        raise ImportMappingError(
                            "A query gives histograms, not numbers.",
                            why="A metric has one value per server and step.",
                            fix="Take a number out of them, e.g. with histogram_quantile(0.5, …).",
                        )
                    continue
                moments, values = zip(*points, strict=True)
                labels.append({str(name): str(value) for name, value in series["metric"].items()})
                counts.append(len(points))
                times += moments
                texts += values
            return Answer(labels, counts, np.array(times, np.float64), np.array([float(text) for text in texts]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, ImportMappingError):
                raise
            raise self._not_one("what it sends are no series") from error

    def _warn(self, warnings: Any) -> None:
        """Keep what it warns of, e.g. of answers that lack a part."""
        for warning in warnings if isinstance(warnings, list) else ():
            if str(warning) not in self.warnings and len(self.warnings) < _MAX_WARNINGS:
                self.warnings.append(str(warning)[:300])

    # ------------------------------------------------------------------------------------------------------- errors
    def _too_slow(self, message: str = "") -> TooMuchError:
        said = message or "there was no whole answer in time"
        return TooMuchError(
            f"A query is too much for the Prometheus at {self.url}: {said}.",
            why="What it cannot compute cannot be imported.",
            fix="Make the query cheaper (fewer series, a recording rule), raise the server's limits "
            "(--query.max-samples, --query.timeout), or ask at a quieter time.",
        )

    def _silent(self, reason: str) -> PrometheusError:
        return PrometheusError(
            f"The Prometheus at {self.url} does not answer: {reason}.",
            why="What it measured cannot be fetched.",
            fix="Check the address, the port and whether it runs (`curl URL/-/ready`); then run the command again.",
        )

    def _refused(self, status: int) -> PrometheusError:
        sent = self._credentials
        reason = "it wants credentials" if sent == Credentials() else f"it does not accept {sent}"
        return PrometheusError(
            f"The Prometheus at {self.url} refuses to answer ({status}): {reason}.",
            why="Without leave to read it nothing can be fetched.",
            fix=f"Set {TOKEN} to a bearer token, or {USER} and {PASSWORD}, in the environment of this command.",
        )

    def _not_one(self, reason: str) -> PrometheusError:
        return PrometheusError(
            f"What answers at {self.url} is no Prometheus: {reason}.",
            why="Only Prometheus' HTTP API (/api/v1/query_range) is understood.",
            fix="Give the address that its web page has, without what comes from /graph or /api on; where a redirect "
            "is named, give its target (redirects are not followed, so that no credentials reach another host).",
        )


def checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises
    ------
    ConfigurationError
        If it is no address of a web server, or holds a password.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:  # a port above 65535, half an IPv6 address
        raise _bad_url(url, str(error)) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"The address of the Prometheus holds a user or password ({parts.scheme}://…@{parts.hostname}).",
            why="Addresses stand in lists of processes, in logs and in the metadata of the import.",
            fix=f"Leave them out of --prometheus, and set {USER} and {PASSWORD} in the environment instead.",
            document=DOCUMENT,
        )
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise _bad_url(url, "it must begin with http:// or https:// and name a host")
    if parts.query or parts.fragment or re.search(r"\s", url.strip()):
        raise _bad_url(url, "it must end with the path; leave out what comes from /graph or ? on")
    return url.strip().rstrip("/")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _wait(error: Exception) -> bool | float:
    """Whether to ask again, and after how many seconds if it said so."""
    if not isinstance(error, _Away):
        return False
    return True if error.wait_seconds is None else error.wait_seconds


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that it asks to wait (RFC 9110, 10.2.3)."""
    try:
        return min(max(float(response.headers["retry-after"]), 0.05), _LONGEST_WAIT_SECONDS)
    except (KeyError, ValueError):
        return None


def _shown_target(location: str) -> str:
    """Target of a redirect, without what could be secret in it."""
    try:
        parts = urlsplit(location)
        return shorten(f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path)
    except ValueError:
        return "an address that is none"


def _bad_url(url: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"--prometheus {shorten(url)} is no address of a Prometheus: {reason}.",
        why="Nothing can be asked there.",
        fix="Give it as in the browser, e.g. --prometheus http://prometheus.example.org:9090.",
        document=DOCUMENT,
    )


def _bad_credentials(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The credentials for the Prometheus cannot be used: {reason}.",
        why="It would refuse to answer, or see more than it should.",
        fix=f"Set {TOKEN} alone, or {USER} and {PASSWORD}, or none of them.",
        document=DOCUMENT,
    )


def _self_check() -> None:
    assert checked_url(" https://mon.example.org:9090/prometheus/ ") == "https://mon.example.org:9090/prometheus"
    for wrong in ("prometheus:9090", "http://", "http://a:99999", "http://u:secret@a", "http://a/graph?x=1"):
        try:
            checked_url(wrong)
        except ConfigurationError as error:
            assert "secret" not in str(error)
        else:
            raise AssertionError(wrong)
    assert "geheim" not in repr(Credentials.from_environment({TOKEN: "geheim"}))
    client = Prometheus("http://127.0.0.1:1")
    data = {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": [[1, "NaN"], [2, "+Inf"], [3, "1e3"]]}]}
    answer = client._series(data)
    assert answer.labels == [{"a": "b"}] and answer.counts == [3] and answer.values[2] == 1000.0
    try:
        with client:
            client.check()
    except PrometheusError as error:
        assert "does not answer" in str(error)
    else:
        raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
