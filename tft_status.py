"""What stands and what to do next: the data set, the model, the daemon and the dashboard, each asked for what it says.

Knows files by their JSON and services by HTTP: no pandas, no torch, so that the answer comes within a second.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common_utils import read_json
from config import Settings, key_headers
from daemon_trust import certificate_fault, trust_of
from data_contract import (
    CONTRACT_VERSION,
    DATA_FILE,
    DATA_INFO,
    MODEL_FILES,
    MODEL_VERSION,
    TRAINING_INFO,
    ConfigurationError,
)

MODEL_KEYS: tuple[str, ...] = ("model_version", "contract_version", "created_at", "validation_loss")

# A daemon on this machine answers in milliseconds; one that does not answer at once is not going to be waited for.
PATIENCE_SECONDS = 0.5


def versions() -> dict[str, str]:
    """Versions of the product, the data contract, the model generation, Python and torch, without importing torch."""
    from daemon_schemas import PRODUCT_VERSION

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return {
        "product": PRODUCT_VERSION,
        "contract": CONTRACT_VERSION,
        "model": MODEL_VERSION,
        "python": platform.python_version(),
        "torch": torch,
    }


def read_status(settings: Settings) -> dict[str, Any]:
    """Gather the state of all four parts, and what to do next.

    Returns
    -------
    dict
        `data`, `model`, `daemon`, `dashboard`, each with `ok` and what is known, and `next`: commands with a reason.
    """
    status: dict[str, Any] = {
        "data": _looked_at(_data, settings.data_dir),
        "model": _looked_at(_model, settings.models_dir / "latest"),
        "daemon": _daemon(settings),
        "dashboard": _dashboard(settings.dashboard_port),
    }
    return {**status, "next": _next_steps(status)}


def _looked_at(look: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What is in a folder; one that may not be looked into is a finding like any other."""
    try:
        return look(folder)
    except OSError as error:
        return {"ok": False, "path": str(folder), "problem": f"cannot be read: {error.strerror or error}"}


def _data(folder: Path) -> dict[str, Any]:
    path = folder / DATA_FILE
    if not path.exists():
        return {"ok": False, "path": str(path), "problem": "not there yet"}
    info = read_json(folder / DATA_INFO)
    known: dict[str, Any] = {
        key: info[key] for key in ("rows", "servers", "start", "end", "source", "scenario") if key in info
    }
    parts = path.rglob("*.parquet") if path.is_dir() else [path]  # partitioned data is a folder
    size = sum(part.stat().st_size for part in parts)
    return {"ok": True, "path": str(path), "megabytes": round(size / 1e6, 1), **known}


def _model(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        return {"ok": False, "path": str(folder), "problem": "none trained yet"}
    resolved = folder.resolve()
    answer: dict[str, Any] = {"path": str(folder), "name": resolved.name}
    missing = [name for name in MODEL_FILES if not (resolved / name).is_file()]
    info = read_json(resolved / TRAINING_INFO)
    if missing:
        return {"ok": False, **answer, "problem": f"incomplete: {', '.join(missing)} missing"}
    if info.get("contract_version") != CONTRACT_VERSION:
        problem = f"made for contract {info.get('contract_version')}, this is {CONTRACT_VERSION}"
        return {"ok": False, **answer, "problem": problem}
    return {"ok": True, **answer, **{key: info.get(key) for key in MODEL_KEYS}}


def _daemon(settings: Settings) -> dict[str, Any]:
    url = settings.daemon_url
    try:
        verify = trust_of(settings.daemon_ca_file)
        with httpx2.Client(timeout=PATIENCE_SECONDS, trust_env=False, verify=verify) as client:
            response = client.get(f"{url.rstrip('/')}/status", headers=key_headers(settings.api_key))
            if response.status_code in {401, 403}:
                problem = "runs, but lets nobody in without a key of scope read: set TFT_API_KEY"
                return {"ok": False, "url": url, "problem": problem, "refused": True}
            answer = response.raise_for_status().json()
            if not isinstance(answer, dict) or "model_loaded" not in answer:
                return {"ok": False, "url": url, "problem": "something else answers at this address"}
    except ConfigurationError as error:
        return {"ok": False, "url": url, "problem": error.what, "untrusted": True}
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        if fault := certificate_fault(error):
            problem = f"its certificate is not trusted ({fault}): set TFT_DAEMON_CA_FILE"
            return {"ok": False, "url": url, "problem": problem, "untrusted": True}
        return {"ok": False, "url": url, "problem": _reason(error)}
    keys = ("model_loaded", "servers", "prediction_time", "stale", "uptime_seconds")
    return {"ok": True, "url": url, **{key: answer.get(key) for key in keys}, "model": answer.get("model")}


def _dashboard(port: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            healthy = client.get(f"{url}/_stcore/health").text.strip() == "ok"
    except httpx2.HTTPError as error:
        return {"ok": False, "url": url, "problem": _reason(error)}
    if not healthy:
        return {"ok": False, "url": url, "problem": "something else answers at this address"}
    return {"ok": True, "url": url}


def _reason(error: Exception) -> str:
    if isinstance(error, httpx2.ConnectError):
        return "not running"
    if isinstance(error, httpx2.TimeoutException):
        return f"no answer within {PATIENCE_SECONDS} s"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _next_steps(status: dict[str, Any]) -> list[dict[str, str]]:
    steps = []
    if not status["data"]["ok"]:
        steps.append(("python main.py generate", "make the default fleet, or `import` your own data"))
    if not status["model"]["ok"]:
        steps.append(("python main.py train", "learn how the fleet behaves"))
    if status["daemon"].get("refused"):
        steps.append(("python main.py keys create --name status --scope read", "make a key, and set TFT_API_KEY to it"))
    elif status["daemon"].get("untrusted"):
        steps.append(("export TFT_DAEMON_CA_FILE=cert.pem", "name a copy of the daemon's certificate"))
    elif not status["daemon"]["ok"]:
        steps.append(("python main.py serve", "start the daemon that forecasts"))
    elif not status["daemon"]["servers"]:
        steps.append(("python main.py generate --stream", "send rows to the daemon, so that it can forecast"))
    if not status["dashboard"]["ok"]:
        steps.append(("python main.py dashboard", "see it in the browser"))
    if len(steps) == 4:
        steps.insert(0, ("make demo", "all of this at once"))
    return [{"command": command, "why": why} for command, why in steps]


def show_status(status: dict[str, Any], console: Console) -> None:
    """Draw the status for a person."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for part in ("data", "model", "daemon", "dashboard"):
        details = status[part]
        mark = "[green]●[/green]" if details["ok"] else "[red]○[/red]"
        table.add_row(mark, f"[bold]{part}[/bold]", escape(_describe(part, details)))
    console.print(table)
    if not status["next"]:
        console.print(f"\nAll is running: open {status['dashboard']['url']}", highlight=False)
        return
    console.print("\n[bold]Next[/bold]")
    steps = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    for step in status["next"]:
        steps.add_row(f"[cyan]{escape(step['command'])}[/cyan]", escape(step["why"]))
    console.print(steps)


def _describe(part: str, details: dict[str, Any]) -> str:
    where = details.get("url") or details["path"]
    if not details["ok"]:
        return f"{where}: {details['problem']}"
    if part == "data":
        size = f"{details['megabytes']:,} MB"
        servers = f", {details['servers']:,} servers" if isinstance(details.get("servers"), int) else ""
        span = f", {details['start']} to {details['end']}" if "start" in details and "end" in details else ""
        return f"{where}: {size}{servers}{span}"
    if part == "model":
        return f"{details['name']}, version {details.get('model_version')}, trained {details.get('created_at')}"
    if part == "daemon":
        model = (details.get("model") or {}).get("name", "no model loaded")
        last = details["prediction_time"] or "no forecast yet"
        stale = ", STALE" if details["stale"] else ""
        return f"{where}: {model}, {details['servers'] or 0:,} servers, forecasts of {last}{stale}"
    return str(where)


def _self_check() -> None:
    import tempfile

    from config import load_settings

    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        settings = load_settings(data_dir=empty, models_dir=empty, daemon_url="http://127.0.0.1:9", dashboard_port=9)
        status = read_status(settings)
    assert [status[part]["ok"] for part in ("data", "model", "daemon", "dashboard")] == [False] * 4
    assert status["next"][0]["command"] == "make demo"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
