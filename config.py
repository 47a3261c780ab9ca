"""What can be set, with its unit, default and bounds: the single source of settings.

Order of precedence, weakest first: the defaults here, the file `tft.toml` (or the one that `TFT_CONFIG_FILE` names),
environment variables `TFT_<NAME>` such as `TFT_DAEMON_PORT=9000`, and the flags of a command.
Secrets never stand in the file: they come from the environment alone.
Knows the contract alone: thresholds are keyed by its metrics and profiles, and errors are told in its way.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from data_contract import METRIC_COLUMNS, VALID_PROFILES, ConfigurationError, shorten
from model_inputs import Layout

DEFAULT_CONFIG_FILE = "tft.toml"

_NO_SETTINGS = (
    "TFT_CONFIG_FILE",  # where the settings lie
    "TFT_REAL_DATA",  # real fleets for the tests
    "TFT_STATSFORECAST_PYTHON",  # another Python, for two baselines of backtests
    "TFT_PROMETHEUS_TOKEN",  # secrets of the import from a Prometheus
    "TFT_PROMETHEUS_USER",
    "TFT_PROMETHEUS_PASSWORD",
    "TFT_WEBHOOK_SECRET",  # signs the events that a webhook is told
)


_SECRETS = frozenset({"api_key"})


class Settings(BaseSettings):
    """All settings of the product."""

    # An empty variable, as Docker Compose and shell scripts pass on what is not set, is no folder, number or key
    model_config = SettingsConfigDict(
        env_prefix="TFT_", env_ignore_empty=True, extra="forbid", frozen=True, validate_default=True
    )

    # Folders, relative to the working directory
    data_dir: Path = Field(Path("training"), description="where generated or imported contract data lies")
    models_dir: Path = Field(Path("models"), description="where model folders, training runs and `latest` lie")
    history_dir: Path = Field(Path("history"), description="where the daemon keeps what it has accepted")

    # Training
    hidden_size: int = Field(32, ge=4, le=512, description="width of the network")
    attention_heads: int = Field(4, ge=1, le=16, description="heads of the attention; must divide hidden_size")
    dropout: float = Field(0.1, ge=0, le=0.999, description="dropout rate while training")
    encoder_pieces: str = Field(
        "8x24,6x12,10x3,6x1",
        max_length=100,
        description="pieces of history that the network reads, oldest first: count x 5-minute steps, …",
    )
    decoder_patch: int = Field(6, ge=1, le=96, description="5-minute steps that the network forecasts at a time")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak of the learning-rate schedule")
    batch_size: int = Field(128, ge=1, le=65536, description="windows per optimiser step")
    windows_per_epoch: int = Field(
        12_800, ge=1, description="training windows drawn per epoch, across servers and time"
    )
    validation_windows: int = Field(2_048, ge=1, description="windows of the validation period, over many origins")
    validation_share: float = Field(0.15, gt=0, le=0.5, description="last share of the time, kept for validation")
    early_stopping_patience: int = Field(3, ge=1, description="epochs without a better validation loss before a stop")
    checkpoint_every_epochs: int = Field(5, ge=1, description="epochs between kept checkpoints")
    checkpoint_minutes: float = Field(5.0, gt=0, description="longest time without a checkpoint, within long epochs")
    seed: int = Field(42, ge=0, le=2**63 - 1, description="seed of everything random")

    # Risk and alerts
    critical_thresholds: dict[str, float] = Field(
        {"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0},
        description="metric value above which a server is in trouble (%, %, MB/s, ms)",
    )
    profile_thresholds: dict[str, dict[str, float]] = Field(
        {
            "ml_compute": {"cpu_pct": 98.0, "mem_pct": 97.0},
            "database": {"disk_io_mb_s": 800.0, "mem_pct": 97.0},
            "data_ingest": {"disk_io_mb_s": 900.0},
        },
        description="thresholds that differ for a profile: profile → metric → value",
    )
    risk_yellow: float = Field(0.3, gt=0, lt=1, description="risk from which a server is shown yellow")
    risk_red: float = Field(0.7, gt=0, lt=1, description="risk above which a server is shown red")
    alert_open_risk: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="breach probability at which an alert opens; if not set, a calibrated model brings its own",
    )
    alert_close_risk: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="breach probability below which it closes again; if not set, a calibrated model brings its own",
    )
    alert_target_precision: float = Field(
        0.8, gt=0, lt=1, description="share of alerts that shall come true; a training chooses when they open by it"
    )

    # Daemon
    daemon_host: str = Field("127.0.0.1", min_length=1, description="address to listen on; loopback unless you mean it")
    daemon_port: int = Field(8000, ge=0, le=65535, description="TCP port of the daemon")
    daemon_settle_seconds: float = Field(0.5, ge=0, le=60, description="quiet time after new rows before a forecast")
    history_hours: int = Field(192, ge=32, le=24 * 60, description="hours of history held in memory for forecasts")
    stale_after_minutes: float = Field(15.0, gt=0, description="data older than this is called stale")
    max_future_minutes: float = Field(60.0, ge=0, description="rows further ahead of the clock are refused")
    max_body_mb: float = Field(64.0, gt=0, le=1024, description="largest request body accepted")
    max_rows_per_request: int = Field(200_000, ge=1, description="most rows accepted in one request")
    rate_limit_per_second: int = Field(100, ge=1, description="requests per second and client before 429")
    body_timeout_seconds: float = Field(30.0, gt=0, le=600, description="longest wait for the whole of a request body")
    remote_write_mapping: str = Field("", description="preset or mapping file by which POST /api/v1/write is read")
    pull_prometheus_url: str = Field("", description="Prometheus that the daemon asks for each step; empty: none")
    pull_mapping: str = Field("node_exporter", min_length=1, description="preset or mapping file by which it is asked")
    pull_lag_seconds: float = Field(30.0, ge=0, le=3600, description="from the end of a step until it is asked for")
    client_timeout_seconds: float = Field(
        10.0,
        ge=0.1,
        le=600,
        description="longest wait for the head of a request, and for 64 kB of an answer to be read",
    )
    max_connections: int = Field(800, ge=10, description="connections at a time; the longest idle one makes room")
    demo_scenarios: bool = Field(False, description="a demo: its made-up fleet may be told which scenario to play")
    max_servers: int = Field(20_000, ge=1, description="servers after which rows of further ones are refused")
    max_websockets: int = Field(100, ge=0, description="WebSocket clients served at a time")
    history_keep_days: int = Field(30, ge=2, le=3650, description="days kept on disk before the newest row")
    history_compact_days: int = Field(
        10, ge=0, le=3650, description="days after which a whole day moves to a Parquet file of its own; 0: never"
    )
    forecast_keep_days: float = Field(3.0, ge=0, le=3650, description="days that past forecasts are kept; 0: none")
    offline_after_minutes: float = Field(60.0, ge=5, description="a server silent for longer than the rest is offline")
    model_check_seconds: float = Field(5.0, ge=0.1, le=3600, description="how often the model folder is looked at")
    allow_open_bind: bool = Field(False, description="let the daemon listen beyond loopback without asking for keys")
    api_keys_file: Path = Field(
        Path("api_keys.json"), description="hashed API keys; without this file none is asked for"
    )
    public_url: str = Field("", description="the daemon's address as others reach it, behind a proxy or in a container")
    wrong_keys_per_minute: int = Field(30, ge=1, description="wrong API keys per minute and address before 429")
    tls_cert: Path | None = Field(None, description="certificate chain (PEM) with which the daemon speaks HTTPS")
    tls_key: Path | None = Field(None, description="private key (PEM) of tls_cert, without a passphrase")

    # Alerts that go out. Addresses may hold a password or a token, so no log and no message shows them.
    alertmanager_url: SecretStr = Field(SecretStr(""), description="Alertmanager that is told of open alerts")
    alert_resend_seconds: float = Field(60.0, ge=1, le=3600, description="how often Alertmanager is told again")
    alert_severity: str = Field("critical", pattern="^[a-z]{1,32}$", description="label `severity` of those alerts")
    alert_link_url: str = Field("http://127.0.0.1:8501", description="dashboard that alerts link to; empty: no link")
    webhook_url: SecretStr = Field(SecretStr(""), description="address that is posted each opening and closing")
    webhook_tries: int = Field(60, ge=1, le=10_000, description="tries, at most a minute apart, until it is given up")
    alert_history_days: int = Field(90, ge=1, le=3650, description="days for which closed alerts are remembered")

    # Dashboard
    daemon_url: str = Field("http://127.0.0.1:8000", description="where the dashboard and `status` look for the daemon")
    daemon_ca_file: Path | None = Field(
        None, description="certificate (PEM) by which our programs know a daemon whose own is self-signed"
    )
    api_key: SecretStr | None = Field(
        None,
        description="key that the dashboard, `status` and `--stream` send to the daemon; from the environment alone",
    )
    dashboard_port: int = Field(8501, ge=0, le=65535, description="TCP port of the dashboard")
    refresh_seconds: float = Field(15.0, ge=1, le=3600, description="seconds between refreshes of the dashboard")
    request_timeout_seconds: float = Field(5.0, gt=0, le=120, description="longest wait for an answer of the daemon")

    # Logs
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level that is logged")
    log_json: bool = Field(False, description="write logs as JSON lines")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = "" if key is None else key.get_secret_value().strip()
        if not all("!" <= character <= "~" for character in text) or len(text) > 200:
            raise ValueError("it is no API key: one has letters, digits, - and _ alone")
        return SecretStr(text) if text else None

    @field_validator("alertmanager_url", "webhook_url")
    @classmethod
    def _is_secret_address(cls, value: SecretStr) -> SecretStr:
        _check_address(value.get_secret_value())
        return value

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        _check_address(value)
        if "@" in value or "?" in value or "#" in value:
            raise ValueError("is told to everybody who may read, so it holds no password, and nothing after its path")
        return value

    @model_validator(mode="after")
    def _no_contradictions(self) -> Settings:
        if self.hidden_size % self.attention_heads:
            raise ValueError(f"attention_heads ({self.attention_heads}) must divide hidden_size ({self.hidden_size})")
        try:
            Layout.parse(self.encoder_pieces, self.decoder_patch)
        except ValueError as error:
            raise ValueError(f"encoder_pieces or decoder_patch make no network: {error}") from None
        if self.risk_yellow >= self.risk_red:
            raise ValueError(f"risk_yellow ({self.risk_yellow}) must be below risk_red ({self.risk_red})")
        if self.alert_close_risk > self.alert_open_risk:
            raise ValueError("alert_close_risk must not be above alert_open_risk, or alerts would flap")
        if set(self.critical_thresholds) != set(METRIC_COLUMNS):
            raise ValueError(f"critical_thresholds must name exactly {shorten(METRIC_COLUMNS)}")
        for profile, thresholds in self.profile_thresholds.items():
            if profile not in VALID_PROFILES or not set(thresholds) <= set(METRIC_COLUMNS):
                raise ValueError(f"profile_thresholds.{profile} names a profile or metric that the contract lacks")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or neither")
        if self.history_keep_days * 24 < self.history_hours:
            raise ValueError(f"history_keep_days ({self.history_keep_days}) must cover history_hours")
        return self

    def threshold(self, metric: str, profile: str) -> float:
        """Critical threshold of a metric for servers of a profile, in the metric's unit."""
        return self.profile_thresholds.get(profile, {}).get(metric, self.critical_thresholds[metric])

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file; no `.env` and no secrets folder."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _SettingsFile(settings_cls, config_file())


def _check_address(address: str) -> None:
    """Refuse what is no address of a server; empty means none."""
    if not address:
        return
    try:
        parts = urlsplit(address)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, half an IPv6 address
        usable = False
    if not usable or any(character.isspace() for character in address):
        raise ValueError("must begin with http:// or https:// and name a host") from None


class _SettingsFile(TomlConfigSettingsSource):
    """The settings file, in which no secret may stand: it is copied, shown and committed too easily."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        for name in _SECRETS & found.keys():
            raise SettingsError(f"{name} is a secret and must not stand in a file; set TFT_{name.upper()} instead")
        return found


def key_headers(api_key: SecretStr | None) -> dict[str, str]:
    """Headers with which a program of ours tells the daemon who it is; none without a key."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}


def default_threshold(metric: str, profile: str) -> float:
    """Critical threshold as the product is shipped, whatever is set: incidents of generated fleets are told by it."""
    fields = Settings.model_fields
    by_profile, usual = fields["profile_thresholds"].default, fields["critical_thresholds"].default
    return float(by_profile.get(profile, {}).get(metric, usual[metric]))


def config_file() -> Path:
    """Path of the settings file; it need not exist unless `TFT_CONFIG_FILE` names it."""
    return Path(os.environ.get("TFT_CONFIG_FILE", DEFAULT_CONFIG_FILE))


def load_settings(**flags: Any) -> Settings:
    """Settings with the given flags on top; flags that are None were not given.

    Raises
    ------
    ConfigurationError
        If a value is out of bounds, unknown or unreadable, or if settings contradict each other.
    """
    if ("TFT_CONFIG_FILE" in os.environ or os.path.lexists(config_file())) and not config_file().is_file():
        raise _configuration_error(f"the settings file {config_file()} is not there, or is not a file")
    for variable in os.environ:
        if is_misspelt(variable):
            raise _configuration_error(f"the environment variable {variable} is no setting")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}" for fault in error.errors()
        )
        raise _configuration_error(reasons) from None
    except (SettingsError, ValueError, OSError) as error:  # unreadable JSON in a variable, broken TOML, no permission
        raise _configuration_error(str(error)) from None


def is_misspelt(variable: str) -> bool:
    """Whether an environment variable looks like one of ours and is none, so that what it says would not hold."""
    name = variable.upper()
    if not name.startswith("TFT_"):
        return False
    return name.removeprefix("TFT_").lower() not in Settings.model_fields and name not in _NO_SETTINGS


@cache
def get_settings() -> Settings:
    """Settings without flags, read once per process."""
    return load_settings()


def _configuration_error(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The settings cannot be used: {reason}.",
        why="A wrong setting would make training or alerts differ from what you meant, so nothing was started.",
        fix=f"Correct the flag, the TFT_… environment variable or {config_file()}; `python config.py` lists them all.",
    )


def _self_check() -> None:
    load_settings()  # what the file and the environment say must be right before anything else is tried
    settings = load_settings(daemon_port=1234)
    assert settings.daemon_port == 1234
    assert settings.threshold("cpu_pct", "web_api") == settings.critical_thresholds["cpu_pct"]
    try:
        load_settings(risk_yellow=0.9)
    except ConfigurationError as error:
        assert "risk_yellow" in str(error)
    else:
        raise AssertionError
    for name, field in Settings.model_fields.items():
        print(f"TFT_{name.upper():<26} {field.default!s:<24.60} {field.description}")
    print("✅ All tests passed")


if __name__ == "__main__":
    try:
        _self_check()
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
