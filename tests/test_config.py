"""Do settings come from where they should, in the right order, and are wrong ones refused in the product's way?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config import Settings, get_settings, key_headers, load_settings
from data_contract import METRIC_COLUMNS, VALID_PROFILES, ConfigurationError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path, monkeypatch):
    """An empty working folder and no `TFT_…` variables; settings read anew."""
    import os

    for name in [name for name in os.environ if name.upper().startswith("TFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def refusal(**flags: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**flags)
    assert caught.value.why and caught.value.fix and caught.value.document
    return caught.value


# --------------------------------------------------------------------------------------------------------- precedence


def test_defaults_hold_without_file_environment_and_flags():
    settings = load_settings()
    assert (settings.daemon_port, settings.daemon_host) == (8000, "127.0.0.1")
    assert settings.data_dir == Path("training") and settings.models_dir == Path("models")
    assert settings.early_stopping_patience == 3 and settings.checkpoint_every_epochs == 5
    assert (settings.risk_yellow, settings.risk_red) == (0.3, 0.7)


def test_an_empty_variable_is_none(monkeypatch):
    monkeypatch.setenv("TFT_DATA_DIR", "")
    monkeypatch.setenv("TFT_DAEMON_PORT", "")
    assert (load_settings().data_dir, load_settings().daemon_port) == (Path("training"), 8000)


def test_flags_win_over_environment_which_wins_over_the_file(monkeypatch):
    Path("tft.toml").write_text("daemon_port = 1111\ndashboard_port = 2222\nhidden_size = 16\n")
    monkeypatch.setenv("TFT_DAEMON_PORT", "3333")
    monkeypatch.setenv("TFT_DASHBOARD_PORT", "4444")
    settings = load_settings(daemon_port=5555)
    assert (settings.daemon_port, settings.dashboard_port, settings.hidden_size) == (5555, 4444, 16)


@pytest.mark.parametrize("variable", ["TFT_DEAMON_PORT", "tft_deamon_port"])
def test_a_misspelt_variable_is_refused_instead_of_ignored(monkeypatch, variable):
    monkeypatch.setenv("TFT_REAL_DATA", "no setting, but ours")
    load_settings()
    monkeypatch.setenv(variable, "3333")
    assert variable in refusal().what


def test_a_settings_file_that_is_no_file_is_refused_instead_of_ignored():
    Path("tft.toml").mkdir()
    assert "tft.toml" in refusal().what
    Path("tft.toml").rmdir()
    Path("tft.toml").symlink_to("tft.toml")
    assert "tft.toml" in refusal().what


def test_flags_that_were_not_given_change_nothing(monkeypatch):
    monkeypatch.setenv("TFT_DAEMON_PORT", "3333")
    assert load_settings(daemon_port=None).daemon_port == 3333


def test_another_settings_file_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "other.toml").write_text("seed = 7\n")
    monkeypatch.setenv("TFT_CONFIG_FILE", str(tmp_path / "other.toml"))
    assert load_settings().seed == 7


def test_a_named_settings_file_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("TFT_CONFIG_FILE", str(tmp_path / "absent.toml"))
    assert "absent.toml" in refusal().what


def test_nested_settings_may_come_from_the_file_and_the_environment(monkeypatch):
    Path("tft.toml").write_text("[profile_thresholds.web_api]\ncpu_pct = 70\n")
    assert load_settings().threshold("cpu_pct", "web_api") == 70
    monkeypatch.setenv("TFT_PROFILE_THRESHOLDS", '{"web_api": {"cpu_pct": 60}}')
    assert load_settings().threshold("cpu_pct", "web_api") == 60


def test_settings_are_read_once_per_process(monkeypatch):
    first = get_settings()
    monkeypatch.setenv("TFT_DAEMON_PORT", "3333")
    assert get_settings() is first


def test_settings_cannot_be_changed_afterwards():
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.daemon_port = 1


# --------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("profile", VALID_PROFILES)
@pytest.mark.parametrize("metric", METRIC_COLUMNS)
def test_every_metric_has_a_threshold_for_every_profile(metric, profile):
    settings = load_settings()
    expected = settings.profile_thresholds.get(profile, {}).get(metric, settings.critical_thresholds[metric])
    assert settings.threshold(metric, profile) == expected > 0


def test_a_profile_threshold_takes_the_place_of_the_general_one():
    settings = load_settings(profile_thresholds={"database": {"cpu_pct": 50.0}})
    assert settings.threshold("cpu_pct", "database") == 50
    assert settings.threshold("cpu_pct", "web_api") == settings.critical_thresholds["cpu_pct"]


# -------------------------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"daemon_port": 65536}, "daemon_port"),
        ({"daemon_port": "eighty"}, "daemon_port"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": 0.9999}, "dropout"),  # a model folder must not hold more than 0.999
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"hidden_size": 30, "attention_heads": 4}, "attention_heads"),
        ({"risk_yellow": 0.8, "risk_red": 0.7}, "risk_yellow"),
        ({"alert_open_risk": 0.4, "alert_close_risk": 0.5}, "alert_close_risk"),
        ({"critical_thresholds": {"cpu_pct": 90.0}}, "critical_thresholds"),
        ({"profile_thresholds": {"mainframe": {"cpu_pct": 90.0}}}, "mainframe"),
        ({"profile_thresholds": {"web_api": {"gpu_pct": 90.0}}}, "web_api"),
        ({"history_keep_days": 2, "history_hours": 72}, "history_keep_days"),
    ],
)
def test_wrong_and_contradicting_values_are_named(flags, word):
    assert word in refusal(**flags).what


def test_all_wrong_values_are_named_at_once():
    what = refusal(daemon_port=-1, seed=-1, dropout=2).what
    assert all(name in what for name in ("daemon_port", "seed", "dropout"))


@pytest.mark.parametrize("content", ["daemon_port = ", "daemon_port = 'x'", "unknown = 1", "\x00"])
def test_a_wrong_settings_file_is_refused(content):
    Path("tft.toml").write_text(content)
    assert "tft.toml" in refusal().fix


def test_a_settings_file_that_is_no_text_is_refused():
    Path("tft.toml").write_bytes(b"\xff\xfe\x00")
    refusal()


def test_a_wrong_environment_variable_is_refused(monkeypatch):
    monkeypatch.setenv("TFT_CRITICAL_THRESHOLDS", "{")
    assert "critical_thresholds" in refusal().what


def test_every_setting_says_what_it_is_and_has_a_default():
    assert all(field.description and not field.is_required() for field in Settings.model_fields.values())


def test_the_module_lists_all_settings():
    done = subprocess.run(
        [sys.executable, str(ROOT / "config.py")], capture_output=True, text=True, check=True, timeout=60
    )
    assert all(f"TFT_{name.upper()} " in done.stdout for name in Settings.model_fields)


def test_the_module_tells_a_wrong_environment_without_a_traceback(monkeypatch):
    monkeypatch.setenv("TFT_DAEMON_PORT", "none")
    done = subprocess.run(
        [sys.executable, str(ROOT / "config.py")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and "daemon_port" in done.stderr and "Traceback" not in done.stderr


def test_a_key_comes_from_the_environment_alone_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("TFT_API_KEY", " tft_secret\n")
    settings = load_settings()
    assert key_headers(settings.api_key) == {"Authorization": "Bearer tft_secret"}
    assert "tft_secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    monkeypatch.delenv("TFT_API_KEY")
    assert key_headers(load_settings().api_key) == {}
    Path("tft.toml").write_text('api_key = "tft_secret"\n')
    assert "TFT_API_KEY" in refusal().what and "tft_secret" not in str(refusal())


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "kéy", "x" * 201])
def test_what_fits_no_header_is_no_key_and_is_not_repeated(monkeypatch, key):
    monkeypatch.setenv("TFT_API_KEY", key)
    assert "api_key" in refusal().what and key not in str(refusal())


def test_a_certificate_needs_its_key():
    with pytest.raises(ConfigurationError, match="belong together"):
        load_settings(tls_cert=Path("cert.pem"))
