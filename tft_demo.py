"""Everything at once: what `make demo` does, from an empty folder to forecasts on a screen, and how all of it stops.

Fleet → training → daemon → live replay → dashboard. Each part is the product's own command in a process of its own,
with its output in `logs/`. What stands already is not done again: a second run takes seconds.
"""

from __future__ import annotations

import contextlib
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.markup import escape

from child_processes import ChildProcesses, ended_by_signals, next_free_port, port_is_free
from common_utils import read_json
from config import Settings, key_headers
from daemon_trust import certificate_fault, trust_of
from data_contract import DATA_FILE, DATA_INFO, SERVER_MAPPING, DaemonError, DataFileError, profile_for_name
from tft_predict import show_forecasts

ROOT = Path(__file__).resolve().parent
HOST = "127.0.0.1"
LOGS = Path("logs")
DEMO_HISTORY = Path("demo_data") / "history"  # apart from a real daemon's history: made-up rows have no place there

TRAINING_TIME = "2m"  # at most; the best weights so far are kept
FORECAST_SECONDS = 180.0  # until the first forecasts, with room for a slow machine
DASHBOARD_SECONDS = 60.0


@dataclass(frozen=True)
class Fleet:
    """The fleet of the demo: its file, and the profile of every server."""

    data: Path
    profiles: dict[str, str]
    made: bool


def run_demo(
    settings: Settings,
    console: Console,
    *,
    port: int | None = None,
    dashboard_port: int | None = None,
    check: bool = False,
) -> None:
    """Start everything and keep it running until Ctrl-C; with `check`, verify it and stop.

    Parameters
    ----------
    port, dashboard_port : int, optional
        Ports that must be used; without, the settings' ones or the next free ones.

    Raises
    ------
    ProductError
        If a part cannot be started, ends by itself, or if a check fails; everything is stopped then.
    """
    began = time.monotonic()
    if settings.api_keys_file.exists() and settings.api_key is None:
        raise DaemonError(
            f"The demo's daemon would ask for an API key of {settings.api_keys_file}, and the demo has none.",
            why="It sends rows, reads forecasts and shows the dashboard, all of which take a key then.",
            fix="Set TFT_API_KEY to a key of scope write, or run the demo in a folder without that file.",
            document="Docs/DAEMON.md",
        )
    headers = key_headers(settings.api_key)
    with ended_by_signals(), ChildProcesses(LOGS) as children:
        daemon_port = _port(port, settings.daemon_port, "daemon", console)
        page_port = _port(dashboard_port, settings.dashboard_port, "dashboard", console)
        way = _way_to_daemon(settings, daemon_port)
        daemon_url, dashboard_url = way.url, f"http://{HOST}:{page_port}"
        with _stage(console, "Fleet") as tell:
            fleet = prepare_fleet(settings, children)
            tell(f"{len(fleet.profiles)} servers in {fleet.data}", made=fleet.made)
        with _stage(console, "Model") as tell:
            model, trained = prepare_model(settings, fleet, children, console)
            tell(model.name, made=trained)
        with _stage(console, "Daemon") as tell:
            children.start("daemon", daemon_command(settings, daemon_port), {"TFT_DEMO_SCENARIOS": "true"})
            _wait(children, lambda: _answers(f"{daemon_url}/readyz", way.verify), FORECAST_SECONDS, "the daemon")
            tell(daemon_url)
        with _stage(console, "Live replay") as tell:
            children.start("replay", replay_command(settings, daemon_url), way.environment)
            _wait(children, lambda: _is_fed(way, headers), FORECAST_SECONDS, "the live replay")
            tell("posts each step of the fleet as it happens")
        with _stage(console, "Dashboard") as tell:
            children.start("dashboard", dashboard_command(HOST, page_port), way.environment)
            _wait(children, lambda: _answers(f"{dashboard_url}/_stcore/health"), DASHBOARD_SECONDS, "the dashboard")
            tell(dashboard_url)
        with _stage(console, "Forecasts") as tell:
            answer = _wait(
                children, lambda: _forecasts(way, fleet, headers), FORECAST_SECONDS, "forecasts of the fleet"
            )
            tell(f"{answer['count']} servers")
        console.print()
        show_forecasts(answer, console, settings, limit=8)
        console.print(f"[bold]Dashboard[/bold]  {dashboard_url}", highlight=False)
        console.print(f"[bold]Daemon[/bold]     {daemon_url}/predictions/current", highlight=False)
        console.print(f"Ready after {time.monotonic() - began:.0f} s. What the parts print is in {LOGS}/.", style="dim")
        if check:
            _verify(way, dashboard_url, fleet, headers, console)
        else:
            console.print("Ctrl-C stops everything.")
            while True:
                children.check()
                time.sleep(0.5)


# --------------------------------------------------------------------------------------------------------------- stages
def prepare_fleet(settings: Settings, children: ChildProcesses) -> Fleet:
    """Use the generated fleet in `data_dir`, or generate the default one; also where another version made it.

    Raises
    ------
    DataFileError
        If there is data that was not generated: it cannot go on live, and it is not overwritten.
    """
    from fleet_simulation import SIMULATION_VERSION

    data, made = settings.data_dir / DATA_FILE, False
    info = read_json(settings.data_dir / DATA_INFO)
    outdated = info.get("source") == "generated" and info.get("simulation_version") != SIMULATION_VERSION
    if outdated or not data.exists():
        _run(children, "generate", "--out_dir", str(settings.data_dir))
        shutil.rmtree(DEMO_HISTORY, ignore_errors=True)  # rows of a fleet that is no more
        made = True
    info, mapping = (read_json(settings.data_dir / name) for name in (DATA_INFO, SERVER_MAPPING))
    if info.get("source") != "generated" or not mapping.get("name_to_id"):
        raise DataFileError(
            f"{data} is not a generated fleet, so it cannot go on live.",
            why="The demo continues its fleet in real time; your own data is left as it is.",
            fix=f"Show your data with `python main.py train` and `python main.py serve --data {data}`, or give the "
            "demo folders of its own: `TFT_DATA_DIR=demo_data TFT_MODELS_DIR=demo_data make demo`.",
            document="QUICK_START.md",
        )
    return Fleet(data, {name: profile_for_name(name) for name in mapping["name_to_id"]}, made)


def prepare_model(settings: Settings, fleet: Fleet, children: ChildProcesses, console: Console) -> tuple[Path, bool]:
    """Use `models/latest` if it is valid and knows the fleet, or train for a short time; whether it was trained."""
    from data_validator import DataValidator

    latest = settings.models_dir / "latest"
    if latest.is_dir() and not fleet.made:
        valid, _ = DataValidator().validate_model_compatibility(latest)
        known = read_json(latest / SERVER_MAPPING).get("name_to_id", {})
        if valid and set(fleet.profiles) <= set(known):
            return latest.resolve(), False
        console.print(f"  {latest} does not fit this fleet: a new model is trained beside it.", style="dim")
    _run(
        children,
        *("train", "--preset", "quick", "--max-time", TRAINING_TIME),
        *("--data", str(fleet.data), "--models-dir", str(settings.models_dir)),
    )
    return latest.resolve(), True


def daemon_command(settings: Settings, port: int) -> list[str]:
    """Command line of the daemon."""
    return [
        *(sys.executable, str(ROOT / "main.py"), "serve", "--host", HOST, "--port", str(port)),
        *("--model-dir", str(settings.models_dir / "latest")),
        *("--history-dir", str(DEMO_HISTORY)),
    ]


def replay_command(settings: Settings, daemon_url: str) -> list[str]:
    """Command line of the live replay."""
    return [
        *(sys.executable, str(ROOT / "main.py"), "generate", "--stream"),
        *("--out_dir", str(settings.data_dir), "--url", daemon_url),
    ]


def dashboard_command(host: str, port: int) -> list[str]:
    """Command line of the dashboard's web server."""
    return [
        *(sys.executable, "-m", "streamlit", "run", str(ROOT / "tft_dashboard_web.py")),
        *("--server.address", host, "--server.port", str(port), "--server.headless", "true"),
        *("--browser.gatherUsageStats", "false"),
    ]


def _run(children: ChildProcesses, *arguments: str) -> None:
    """Run one of our commands to its end, with its progress on the screen."""
    code = children.run(arguments[0], [sys.executable, str(ROOT / "main.py"), *arguments])
    if code != 0:
        raise DaemonError(
            f"`python main.py {arguments[0]}` ended with code {code}; it says why above.",
            why="The demo needs its result.",
            fix="Mend what it says, then run the demo again: what stands already is not done again.",
        )


# -------------------------------------------------------------------------------------------------------------- waiting
def _wait(children: ChildProcesses, ready: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask until the answer is there, as long as all children run."""
    deadline = time.monotonic() + seconds
    while True:
        children.check()
        if answer := ready():
            return answer
        if time.monotonic() > deadline:
            raise DaemonError(
                f"Waited {seconds:.0f} s for {what} in vain.",
                why="Without it the demo would show nothing, so everything was stopped.",
                fix=f"See what the parts say in {LOGS}/, then run it again; a very busy machine may just need longer.",
            )
        time.sleep(0.2)


@dataclass(frozen=True)
class _Way:
    """How the demo's daemon is reached.

    Attributes
    ----------
    url : str
    verify : ssl.SSLContext or bool
        What its certificate is checked by.
    environment : dict
        Settings with which the other parts reach it.
    """

    url: str
    verify: ssl.SSLContext | bool
    environment: dict[str, str]


def _way_to_daemon(settings: Settings, port: int) -> _Way:
    """Over HTTPS where the settings have a certificate, which is then known by itself unless they say by what else."""
    url = f"{'http' if settings.tls_cert is None else 'https'}://{HOST}:{port}"
    environment = {"TFT_DAEMON_URL": url}
    ca_file = settings.daemon_ca_file or settings.tls_cert
    if ca_file is not None:
        environment["TFT_DAEMON_CA_FILE"] = str(ca_file.absolute())
    return _Way(url, trust_of(ca_file), environment)


def _ask(way: _Way, path: str, headers: Mapping[str, str]) -> Any:
    """JSON of a GET, None while there is no good answer."""
    try:
        response = httpx2.get(f"{way.url}{path}", timeout=10, trust_env=False, headers=dict(headers), verify=way.verify)
        return response.json() if response.status_code == 200 else None
    except (httpx2.HTTPError, ValueError):
        return None


def _answers(url: str, verify: ssl.SSLContext | bool = True) -> bool:
    try:
        return httpx2.get(url, timeout=5, trust_env=False, verify=verify).status_code == 200
    except httpx2.HTTPError as error:
        if fault := certificate_fault(error):  # which waiting does not mend
            raise DaemonError(
                f"The certificate of the demo's daemon is not trusted: {fault}.",
                why="The demo's parts do not talk to whom they cannot tell from an impostor.",
                fix=f"Have a certificate that names {HOST} (subjectAltName=IP:{HOST}), or run the demo without "
                "TFT_TLS_CERT; TFT_DAEMON_CA_FILE names the authority of one that is not self-signed.",
                document="Docs/DAEMON.md",
            ) from error
        return False


def _is_fed(way: _Way, headers: Mapping[str, str]) -> bool:
    status = _ask(way, "/status", headers)
    return bool(status and status["ingest"]["accepted"] + status["ingest"]["duplicates"])


def _forecasts(way: _Way, fleet: Fleet, headers: Mapping[str, str]) -> Any:
    answer = _ask(way, "/predictions/current", headers)
    if (
        answer
        and not answer["stale"]
        and set(fleet.profiles) <= {record["server_name"] for record in answer["predictions"]}
    ):
        return answer
    return None


def _port(wanted: int | None, usual: int, what: str, console: Console) -> int:
    """A port to use: the wanted one, or the usual one, or the next free one after it."""
    if wanted is not None:
        if not port_is_free(HOST, wanted):
            raise DaemonError(
                f"Port {wanted} is in use, so the {what} cannot listen there.",
                why="Two programs cannot listen on one port.",
                fix="Stop the other one, or leave the port out: the demo then takes the next free one.",
            )
        return wanted
    port = next_free_port(HOST, usual)
    if port != usual:
        console.print(f"  Port {usual} is in use: the {what} is at {port}.", style="dim", highlight=False)
    return port


# -------------------------------------------------------------------------------------------------------------- showing
@contextlib.contextmanager
def _stage(console: Console, name: str) -> Iterator[Callable[..., None]]:
    """Say what is done, what came of it and how long it took."""
    told: list[str] = []

    def tell(result: str, *, made: bool = True) -> None:
        told.append(result if made else f"{result} (stands already)")

    console.print(f"[bold]{name}[/bold] …", highlight=False)
    began = time.monotonic()
    yield tell
    took = time.monotonic() - began
    console.print(f"  [green]✓[/green] {escape(told[0])}  [dim]{took:.1f} s[/dim]", highlight=False, soft_wrap=True)


def _verify(way: _Way, dashboard_url: str, fleet: Fleet, headers: Mapping[str, str], console: Console) -> None:
    from tft_demo_check import run_checks

    def say(name: str, wrong: str | None) -> None:
        mark = "[green]✓[/green]" if wrong is None else "[red]✗[/red]"
        console.print(
            f"  {mark} {escape(name if wrong is None else f'{name}: {wrong}')}", highlight=False, soft_wrap=True
        )

    console.print("[bold]Checks[/bold] …")
    failures = run_checks(way.url, dashboard_url, fleet.profiles, say, headers, way.verify, way.environment)
    if failures:
        raise DaemonError(
            f"{len(failures)} check(s) failed:\n" + "\n".join(f"    - {failure}" for failure in failures),
            why="What the demo shows could not be trusted.",
            fix=f"See what the parts said in {LOGS}/.",
        )
    console.print("All checks passed; stopping.")
