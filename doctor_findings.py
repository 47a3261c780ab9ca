"""What can be wrong, why it matters, what mends it and where it is explained: every finding of the doctor, by its key.

Knows neither files nor services: the `doctor_…` modules beside it do the looking. Docs/OPERATIONS.md has a section on
each key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

Section = Literal["installation", "settings", "data", "model", "daemon", "dashboard"]
Weight = Literal["problem", "absent", "hint"]

SECTIONS: Final[tuple[Section, ...]] = ("installation", "settings", "data", "model", "daemon", "dashboard")


@dataclass(frozen=True)
class Kind:
    """One way in which something can be wrong.

    Attributes
    ----------
    section : str
        Part of the product that it belongs to.
    weight : str
        `problem` makes the exit code 1; `absent`, what is not there yet, does so if its section was asked for by name;
        a `hint` never does.
    why, fix : str
        Why it matters, and the command or the step that mends it.
    document : str
        Where it is explained.
    """

    section: Section
    weight: Weight
    why: str
    fix: str
    document: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong here and now.

    Attributes
    ----------
    key : str
        Name of its kind in `KINDS`.
    what : str
        What was found, with the names and figures of this place.
    repair : callable, optional
        Mends it without losing anything, and says what was done; None where a person has to decide.
    fix : str, optional
        A command that is more exact than that of its kind.
    """

    key: str
    what: str
    repair: Callable[[], str] | None = None
    fix: str | None = None

    @property
    def kind(self) -> Kind:
        """What is known of all findings with this key."""
        return KINDS[self.key]

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        kind = self.kind
        return {
            "key": self.key,
            "section": kind.section,
            "weight": kind.weight,
            "what": self.what,
            "why": kind.why,
            "fix": self.fix or kind.fix,
            "document": kind.document,
            "can_be_repaired": self.repair is not None,
        }


_SETUP = "python main.py setup"
_TRAIN = "python main.py train"

KINDS: Final[dict[str, Kind]] = {
    # ------------------------------------------------------------------------------------------------- installation
    "python-version": Kind(
        "installation",
        "problem",
        "The pinned packages have no builds for other versions than 3.10 to 3.13.",
        "python3.11 main.py setup",
        "QUICK_START.md",
    ),
    "packages-missing": Kind(
        "installation",
        "problem",
        "The commands that need them end half-way.",
        _SETUP,
        "QUICK_START.md",
    ),
    "packages-differ": Kind(
        "installation",
        "hint",
        "The product is tested with the versions of requirements.lock; others may behave differently.",
        _SETUP,
        "QUICK_START.md",
    ),
    "torch-broken": Kind(
        "installation",
        "problem",
        "Nothing can be trained or forecast without torch.",
        f"remove the folder .venv, then `{_SETUP}`",
        "QUICK_START.md",
    ),
    "disk-low": Kind(
        "installation",
        "problem",
        "A full disk ends a training, and the daemon then refuses rows (507) until there is space again.",
        "free some space, or move the folder with TFT_DATA_DIR, TFT_MODELS_DIR or TFT_HISTORY_DIR",
        "Docs/OPERATIONS.md",
    ),
    "folder-missing": Kind(
        "installation",
        "hint",
        "It is made when it is first needed; until then nobody has checked that it can be.",
        "python main.py doctor installation --fix",
        "Docs/OPERATIONS.md",
    ),
    "folder-not-writable": Kind(
        "installation",
        "problem",
        "Data, models or accepted rows are kept there, and cannot be.",
        "give this account the folder (chown), or name another with TFT_DATA_DIR, TFT_MODELS_DIR or TFT_HISTORY_DIR",
        "Docs/OPERATIONS.md",
    ),
    "threads": Kind(
        "installation",
        "hint",
        "Training and forecasting take longer than this machine needs.",
        "unset OMP_NUM_THREADS",
        "Docs/PERFORMANCE.md",
    ),
    # ----------------------------------------------------------------------------------------------------- settings
    "setting-unknown": Kind(
        "settings",
        "problem",
        "What it says would not hold, so no command starts.",
        "correct or remove it; `python config.py` lists all settings",
        "Docs/ESSENTIAL_RAG.md",
    ),
    "setting-bad": Kind(
        "settings",
        "problem",
        "A wrong setting would make training or alerts differ from what was meant, so no command starts.",
        "correct it; `python config.py` lists all settings with their defaults",
        "Docs/ESSENTIAL_RAG.md",
    ),
    "settings-unreadable": Kind(
        "settings",
        "problem",
        "Without the settings that you meant no command starts.",
        "correct the file, or TFT_CONFIG_FILE, which names it",
        "Docs/ESSENTIAL_RAG.md",
    ),
    "open-without-keys": Kind(
        "settings",
        "problem",
        "Everybody who reaches this machine could read and write, so the daemon does not start like that.",
        "python main.py keys create --name admin --scope admin",
        "Docs/DAEMON.md",
    ),
    "keys-damaged": Kind(
        "settings",
        "problem",
        "The daemon lets nobody in with keys that it cannot read.",
        "restore the file from a backup, or remove it and make new keys with `python main.py keys create`",
        "Docs/DAEMON.md",
    ),
    "keys-readable": Kind(
        "settings",
        "problem",
        "Other accounts of this machine can read or change who may ask the daemon.",
        "python main.py doctor settings --fix",
        "Docs/OPERATIONS.md",
    ),
    "tls-file": Kind(
        "settings",
        "problem",
        "The daemon cannot speak HTTPS without its certificate and key, and does not start.",
        "correct TFT_TLS_CERT and TFT_TLS_KEY",
        "Docs/DAEMON.md",
    ),
    # --------------------------------------------------------------------------------------------------------- data
    "data-missing": Kind(
        "data",
        "absent",
        "Training needs data of your servers, or of a made-up fleet.",
        "python main.py generate",
        "Docs/QUICK_START_REAL_DATA.md",
    ),
    "data-invalid": Kind(
        "data",
        "problem",
        "Training refuses data that breaks the contract.",
        "python main.py validate",
        "Docs/DATA_CONTRACT.md",
    ),
    "data-suspicious": Kind(
        "data",
        "hint",
        "It is allowed, but what looks wrong is learned as if it were right.",
        "python main.py validate",
        "Docs/DATA_QUALITY.md",
    ),
    "data-gaps": Kind(
        "data",
        "hint",
        "A gap stays a gap: nothing is learned from it, and alerts in it are not seen.",
        "import the missing time if its source still has it; `python main.py validate` names the servers",
        "Docs/DATA_QUALITY.md",
    ),
    "data-short": Kind(
        "data",
        "problem",
        "Training refuses it: a window takes history and 8 hours to forecast, and validation needs time of its own.",
        "bring more hours: `python main.py import … --from -30d`, or `python main.py generate --hours 720`",
        "Docs/TRAINING.md",
    ),
    "data-old": Kind(
        "data",
        "hint",
        "A model that is trained on it learns how the fleet was, not how it is.",
        "python main.py import --prometheus http://prometheus:9090 --preset node_exporter --from -30d",
        "Docs/IMPORTING.md",
    ),
    # -------------------------------------------------------------------------------------------------------- model
    "model-missing": Kind(
        "model",
        "absent",
        "Nothing is forecast without one: the daemon answers 503.",
        _TRAIN,
        "Docs/TRAINING.md",
    ),
    "model-link-broken": Kind(
        "model",
        "problem",
        "The daemon finds no model after its next start.",
        "python main.py doctor model --fix",
        "Docs/MODEL_FOLDER.md",
    ),
    "model-contract": Kind(
        "model",
        "problem",
        "A model reads data by the contract that it was trained with; under another it would forecast nonsense.",
        _TRAIN,
        "Docs/MIGRATIONS.md",
    ),
    "model-damaged": Kind(
        "model",
        "problem",
        "A folder that is not exactly as it was written is refused by every command and by the daemon.",
        f"restore the whole folder from a backup, or `{_TRAIN}`",
        "Docs/MODEL_FOLDER.md",
    ),
    "model-quality": Kind(
        "model",
        "problem",
        "Its own validation says that it should not be relied on.",
        f"{_TRAIN} --preset production",
        "Docs/TRAINING.md",
    ),
    "model-strangers": Kind(
        "model",
        "hint",
        "Servers that a model has not learned are forecast from their profile alone.",
        _TRAIN,
        "Docs/UNKNOWN_SERVER_HANDLING.md",
    ),
    "model-old": Kind(
        "model",
        "hint",
        "Fleets change; what it learned may not hold any more.",
        _TRAIN,
        "Docs/TRAINING.md",
    ),
    "model-leftovers": Kind(
        "model",
        "hint",
        "They hold space on the disk and are used by nothing.",
        "python main.py doctor model --fix",
        "Docs/MODEL_FOLDER.md",
    ),
    # ------------------------------------------------------------------------------------------------------- daemon
    "daemon-absent": Kind(
        "daemon",
        "absent",
        "There are no forecasts and no alerts while it does not run.",
        "python main.py serve",
        "Docs/DAEMON.md",
    ),
    "daemon-hangs": Kind(
        "daemon",
        "problem",
        "It takes connections and says nothing: whoever asks it waits in vain.",
        "look at its log, then start it again; `journalctl -u tft-monitor`",
        "Docs/OPERATIONS.md",
    ),
    "daemon-stranger": Kind(
        "daemon",
        "problem",
        "The dashboard, `status` and `--stream` would talk to the wrong program.",
        "set TFT_DAEMON_URL to the daemon's address",
        "Docs/DAEMON.md",
    ),
    "daemon-untrusted": Kind(
        "daemon",
        "problem",
        "The dashboard, `status`, `--stream` and this command do not talk to whom they cannot tell from an impostor.",
        "set TFT_DAEMON_CA_FILE to a copy of the daemon's certificate, and ask at an address that it names",
        "Docs/DAEMON.md",
    ),
    "daemon-key": Kind(
        "daemon",
        "problem",
        "The dashboard, `status` and this command cannot see how the daemon does.",
        "python main.py keys create --name doctor --scope read, then set TFT_API_KEY to the key",
        "Docs/DAEMON.md",
    ),
    "daemon-version": Kind(
        "daemon",
        "problem",
        "It was not started again after an update, so it does not do what these documents say.",
        "stop the daemon, then start it again: `python main.py serve`",
        "Docs/OPERATIONS.md",
    ),
    "daemon-no-model": Kind(
        "daemon",
        "problem",
        "Every prediction route answers 503.",
        _TRAIN,
        "Docs/DAEMON.md",
    ),
    "daemon-model-refused": Kind(
        "daemon",
        "problem",
        "The model before goes on serving and grows older.",
        "python main.py doctor model",
        "Docs/MODEL_FOLDER.md",
    ),
    "daemon-model-other": Kind(
        "daemon",
        "hint",
        "What was trained last is not what forecasts.",
        'curl -X POST -H "Authorization: Bearer $TFT_API_KEY" http://127.0.0.1:8000/models/reload',
        "Docs/DAEMON.md",
    ),
    "daemon-no-rows": Kind(
        "daemon",
        "problem",
        "There is nothing to forecast.",
        "python main.py generate --stream, or let your monitoring send rows",
        "Docs/DAEMON.md",
    ),
    "daemon-stale": Kind(
        "daemon",
        "problem",
        "Forecasts begin where the data ends, so they are old, too.",
        "look at what sends the rows, and at its clock",
        "Docs/DAEMON.md",
    ),
    "daemon-servers-silent": Kind(
        "daemon",
        "problem",
        "They are not forecast, and no alert can open on them.",
        "look at these servers and at what collects their metrics",
        "Docs/DAEMON.md",
    ),
    "daemon-rows-rejected": Kind(
        "daemon",
        "hint",
        "What is rejected is not forecast from.",
        "the answers to POST /ingest say why, row by row",
        "Docs/DAEMON.md",
    ),
    "daemon-history-damaged": Kind(
        "daemon",
        "problem",
        "The disk or a copy damaged the file; rows that could not be rescued are missing.",
        "look after the disk; then put the file away and start the daemon again",
        "Docs/OPERATIONS.md",
    ),
    "daemon-day-damaged": Kind(
        "daemon",
        "problem",
        "What could be read of these days is served; the rest is missing in charts of the past, not in forecasts.",
        "look at the disk; a backup of history/daily/ has the whole day",
        "Docs/OPERATIONS.md",
    ),
    "daemon-disk-full": Kind(
        "daemon",
        "problem",
        "Rows were refused because they could not be written.",
        "free space on the disk of history_dir and send the rows again; no restart is needed",
        "Docs/OPERATIONS.md",
    ),
    "daemon-forecasts-fail": Kind(
        "daemon",
        "problem",
        "What is served are the last good forecasts.",
        "the daemon's log has the reason: `journalctl -u tft-monitor`",
        "Docs/OPERATIONS.md",
    ),
    "daemon-alerts-undelivered": Kind(
        "daemon",
        "problem",
        "Nobody is told of alerts that open now.",
        "correct TFT_ALERTMANAGER_URL or TFT_WEBHOOK_URL, then POST /alerts/test tries them",
        "Docs/ALERTS.md",
    ),
    "daemon-dead-letters": Kind(
        "daemon",
        "problem",
        "These events were given up: their receiver never heard of them.",
        "read webhook-dead-letters.jsonl in history_dir, tell whom it concerns, then move it away",
        "Docs/ALERTS.md",
    ),
    "daemon-clock": Kind(
        "daemon",
        "problem",
        "Rows seem to come from the future, or look older than they are.",
        "let both machines follow a time server (chrony, systemd-timesyncd)",
        "Docs/OPERATIONS.md",
    ),
    "daemon-rate-limited": Kind(
        "daemon",
        "hint",
        "What was refused with 429 was not answered; a Prometheus is told 503 and tries again.",
        "send many rows in one request, or raise TFT_RATE_LIMIT_PER_SECOND",
        "Docs/DAEMON.md",
    ),
    "daemon-pull-fails": Kind(
        "daemon",
        "problem",
        "What the Prometheus measures does not come, so forecasts grow old; it is fetched once it answers again.",
        "curl -s http://127.0.0.1:8000/status",
        "Docs/DAEMON.md",
    ),
    "daemon-pull-behind": Kind(
        "daemon",
        "hint",
        "Forecasts begin where the fetched rows end; after a gap the daemon catches up step by step.",
        "curl -s http://127.0.0.1:8000/status",
        "Docs/DAEMON.md",
    ),
    "daemon-pull-absent": Kind(
        "daemon",
        "hint",
        "Forecasts of a metric that is missing are made of the other ones and of the calendar alone, or not at all.",
        "correct the query in the mapping, or mark it `optional = true`",
        "Docs/IMPORTING.md",
    ),
    "daemon-keys-damaged": Kind(
        "daemon",
        "problem",
        "The keys that were read last stay in force; one that was revoked since does, too.",
        "python main.py keys list",
        "Docs/DAEMON.md",
    ),
    # ---------------------------------------------------------------------------------------------------- dashboard
    "dashboard-absent": Kind(
        "dashboard",
        "absent",
        "Nobody sees the forecasts in a browser while it does not run.",
        "python main.py dashboard",
        "Docs/DASHBOARD_GUIDE.md",
    ),
    "dashboard-port": Kind(
        "dashboard",
        "problem",
        "Two programs cannot listen on one port, so the dashboard does not start.",
        "python main.py dashboard --port 8502",
        "Docs/DASHBOARD_GUIDE.md",
    ),
}
