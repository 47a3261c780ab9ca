"""What a mapping file may ask of a Prometheus: one PromQL query per metric, and the label that names the server.

Everything that is wrong with it is told at once. Knows nothing of how a Prometheus is asked; what its answers then go
through is the importer's own mapping, which is made here, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator

from data_contract import METRIC_COLUMNS, ImportMappingError
from import_mapping import (
    CLIP_UP_TO,
    UNITS,
    AnySections,
    Mapping,
    ProfileSection,
    Section,
    describe_fault,
    near,
    parse_mapping,
    preset_file,
    presets,
    read_mapping_file,
    wrong_mapping,
)

# Columns of the files that answers are kept in until they are imported
TIME_COLUMN: Final = "timestamp"
SERVER_COLUMN: Final = "server"
PROFILE_COLUMN: Final = "profile"

# Grafana's names are understood, too: people have their queries in its dashboards.
_VARIABLE: Final = re.compile(r"\$(window|step|__rate_interval|__interval)\b")
_ANY_VARIABLE: Final = re.compile(r"\$\{?([a-zA-Z_]\w*)")
_TEXT: Final = r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`"
_RATED: Final = re.compile(
    rf"([a-zA-Z_:][\w:]*\s*(?:\{{(?:[^{{}}\"'`]|{_TEXT})*\}})?)\s*\[\s*\$(?:window|__rate_interval)\s*\]"
)
_HOST: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?:[^/@]*@)?(?:\[(?P<address>[^\]]+)\]|(?P<host>[^/:?#\[\]]+))(?::\d+)?(?:[/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)


class PrometheusMetric(Section):
    """What to ask for one metric of the contract."""

    query: StrictStr = Field(description="PromQL; the value at a time must describe the step that ends then")
    unit: StrictStr | None = Field(None, description="unit of the values; without it the contract's")
    server_label: StrictStr | None = Field(None, description="label that names the server, if it is another one here")
    join: StrictBool = Field(
        False, description="values count only in steps in which another metric of the same server has one"
    )
    clip_up_to: float | None = Field(
        None, ge=100, description="percentages up to this are clipped to 100, those above are taken as missing"
    )
    optional: StrictBool = Field(False, description="the query may find nothing: the metric is then missing")

    @field_validator("query")
    @classmethod
    def _usable_query(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("must not be empty")
        for name in _ANY_VARIABLE.findall(_VARIABLE.sub("", query)):
            if f"(?P<{name}>" not in query:  # a group that label_replace() refers to
                raise ValueError(f"${name} is no variable here: $window and $step are (and Grafana's names for them)")
        return query


class PrometheusSection(Section):
    """What to ask a Prometheus."""

    server_label: StrictStr = Field("instance", description="label that names the server")
    server_pattern: StrictStr | None = Field(
        None, description="regular expression for the label's value; its group `server` is the name"
    )
    window_seconds: StrictInt | None = Field(
        None, ge=1, le=86_400, description="what `$window` stands for, if not what fits step and scrape interval"
    )
    metrics: dict[str, PrometheusMetric]

    @field_validator("server_pattern")
    @classmethod
    def _usable_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            if "server" not in groups:
                raise ValueError(f"{pattern!r} needs a group (?P<server>…)")
        return pattern

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: dict[str, PrometheusMetric]) -> dict[str, PrometheusMetric]:
        faults = []
        for name, metric in metrics.items():
            if name not in UNITS:
                faults.append(f"`{name}` is no metric{near(name, METRIC_COLUMNS)}")
                continue
            if metric.unit is not None and metric.unit not in UNITS[name]:
                hint = near(metric.unit, UNITS[name])
                faults.append(f"`{name}.unit` {metric.unit!r} is none of {', '.join(UNITS[name])}{hint}")
            if metric.clip_up_to is not None and name not in CLIP_UP_TO:
                faults.append(f"`{name}.clip_up_to` is for percentages")
        if not metrics:
            faults.append("at least one metric is needed")
        elif all(metric.join for metric in metrics.values()):
            faults.append("one metric at least must do without `join`: there is nothing to join them to")
        if faults:
            raise ValueError("; ".join(faults) + f". The contract's metrics are {', '.join(METRIC_COLUMNS)}")
        return metrics


class PrometheusMapping(BaseModel):
    """How a Prometheus' data becomes contract data.

    Attributes
    ----------
    name : str
        Name for the report: the preset's, or the file's.
    description : str
        One sentence.
    prometheus : PrometheusSection
        What is asked for.
    profile : ProfileSection
        Servers' profiles, as for files; its columns are labels here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr
    description: StrictStr = ""
    prometheus: PrometheusSection
    profile: ProfileSection = ProfileSection()

    @field_validator("profile")
    @classmethod
    def _labels_have_names(cls, profile: ProfileSection) -> ProfileSection:
        if any(isinstance(ref, int) for ref in (profile.column, *profile.any_of)):
            raise ValueError("labels have names: `column` and `any_of` cannot be numbers here")
        return profile

    @property
    def profile_labels(self) -> tuple[str, ...]:
        """Labels that may state a server's role, the first that is there counts."""
        refs = self.profile.any_of if self.profile.column is None else (self.profile.column,)
        return tuple(str(ref) for ref in refs)

    def queries(self, step_seconds: int, window_seconds: int) -> dict[str, str]:
        """PromQL per metric, with the variables filled in."""
        spans = {"step": step_seconds, "__interval": step_seconds}

        def span(variable: re.Match[str]) -> str:
            return f"{spans.get(variable[1], window_seconds)}s"

        return {name: _VARIABLE.sub(span, metric.query) for name, metric in self.prometheus.metrics.items()}

    def rated_series(self) -> dict[str, str]:
        """Selectors of the series that are looked at over `$window`, and one of the metrics that use each."""
        return {
            selector.strip(): name
            for name, metric in self.prometheus.metrics.items()
            for selector in _RATED.findall(metric.query)
        }

    def server_of(self, metric: str, labels: AnyMapping[str, str]) -> str | None:
        """Name of the server that a series is of, None if its labels do not tell.

        Without a `server_pattern` the host of an address or URL is taken: `db1:9100` and `https://db1/login` are db1.
        """
        section = self.prometheus
        value = labels.get(section.metrics[metric].server_label or section.server_label)
        if not value:
            return None
        if section.server_pattern is not None:
            match = re.fullmatch(section.server_pattern, value)
            return match["server"] if match else None
        match = _HOST.fullmatch(value)
        return value if match is None else match["host"] or match["address"]

    def what_is_asked(self) -> dict[str, Any]:
        """All that decides what is fetched; units and profiles can be corrected without fetching anew."""
        section = self.prometheus.model_dump()
        for metric in section["metrics"].values():
            for key in ("unit", "clip_up_to", "optional"):
                del metric[key]
        return {**section, "profile_labels": list(self.profile_labels)}

    def for_files(self) -> Mapping:
        """Mapping of the files that the answers are kept in."""
        metrics = {
            name: {
                "column": name,
                "optional": True,
                **metric.model_dump(include={"unit", "clip_up_to"}, exclude_none=True),
            }
            for name, metric in self.prometheus.metrics.items()
        }
        profile = self.profile.model_dump(include={"values", "rules", "default"})
        if self.profile_labels:
            profile |= {"column": PROFILE_COLUMN, "optional": True}
        layout = {
            "layout_name": "Prometheus",
            "source": {"format": "parquet"},
            "time": {"column": TIME_COLUMN},
            "server": {"column": SERVER_COLUMN},
            "metrics": metrics,
            "profile": profile,
        }
        return parse_mapping({"name": self.name, "description": self.description, "layout": [layout]})


# ------------------------------------------------------------------------------------------------------------- loading
_SECTIONS: Final[AnySections] = {
    "prometheus": PrometheusSection,
    "metrics": PrometheusMetric,
    "profile": ProfileSection,
}


def load_prometheus_preset(name: str) -> PrometheusMapping:
    """Shipped mapping of that name.

    Raises
    ------
    ImportMappingError
        If there is none, or it is for files.
    """
    return load_prometheus_mapping(preset_file(name))


def mapping_named(named: str) -> PrometheusMapping:
    """A shipped mapping, or that of a file: what a setting names.

    Raises
    ------
    ImportMappingError
        If there is none, or it cannot be used.
    """
    shipped = named in presets(prometheus=True)
    return load_prometheus_preset(named) if shipped else load_prometheus_mapping(Path(named))


def load_prometheus_mapping(path: Path) -> PrometheusMapping:
    """Read a mapping file for a Prometheus.

    Raises
    ------
    ImportMappingError
        If there is no such file, or it says something that cannot be; all faults are listed.
    """
    return parse_prometheus_mapping(read_mapping_file(path), name=path.stem, source=str(path))


def parse_prometheus_mapping(
    content: dict[str, Any], *, name: str = "mapping", source: str = "The mapping"
) -> PrometheusMapping:
    """Make a mapping of the content of a mapping file.

    Raises
    ------
    ImportMappingError
        With everything that is wrong with it.
    """
    if "prometheus" not in content:
        raise ImportMappingError(
            f"{source} has no section [prometheus], so it does not say what to ask.",
            why="Which query gives which metric cannot be guessed.",
            fix=f"Take a preset for a Prometheus ({', '.join(presets(prometheus=True))}), or write one PromQL query "
            "per metric into [prometheus.metrics.…].",
        )
    try:
        return PrometheusMapping.model_validate({"name": name, **content})
    except ValidationError as error:
        faults = [describe_fault(dict(fault), root=PrometheusMapping, sections=_SECTIONS) for fault in error.errors()]
        raise wrong_mapping(source, faults) from None


def _self_check() -> None:
    for name in presets(prometheus=True):
        mapping = load_prometheus_preset(name)
        assert mapping.for_files().layouts and "$step" not in "".join(mapping.queries(300, 300).values()), name
    plain = parse_prometheus_mapping({"prometheus": {"metrics": {"cpu_pct": {"query": "rate(a{b='}'}[$window])"}}}})
    hosts = ("db1:9100", "https://db1/login?x=1", "[::1]:9100", "fe80::1", "10.0.0.7")
    named = [plain.server_of("cpu_pct", {"instance": host}) for host in hosts]
    assert named == ["db1", "db1", "::1", "fe80::1", "10.0.0.7"], named
    assert plain.queries(10, 60)["cpu_pct"] == "rate(a{b='}'}[60s])" and plain.rated_series() == {"a{b='}'}": "cpu_pct"}
    try:
        parse_prometheus_mapping({"prometheus": {"metrics": {"cpu_pct": {"qery": "up", "unit": "volts"}}}})
    except ImportMappingError as error:
        assert "did you mean 'query'" in str(error)
    else:
        raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
