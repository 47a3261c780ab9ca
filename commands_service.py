"""Commands that run what serves: daemon, keys, dashboard, demo; and the shell's completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from command_frame import (
    HELP_FLAGS,
    Json,
    ModelDir,
    app,
    command,
    done,
    settings_of,
    show_json,
    stdout,
)
from data_contract import DaemonError


@command(
    "serve",
    "Docs/DAEMON.md",
    "python main.py serve",
    "python tft_inference.py --daemon --port 8000 --model-dir ./models/latest/",
    "python main.py serve --data training/server_metrics.parquet",
    "curl http://127.0.0.1:8000/predictions/current",
)
def serve(
    daemon: Annotated[bool, typer.Option("--daemon", help="Run until stopped, as it does without this flag.")] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="setting daemon_host, 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on.", show_default="setting daemon_port, 8000")
    ] = None,
    model_dir: ModelDir = None,
    data: Annotated[
        Path | None, typer.Option(help="Contract Parquet whose tail is taken in at the start.", show_default="none")
    ] = None,
    history_dir: Annotated[
        Path | None,
        typer.Option(
            "--history-dir", help="Where accepted rows are kept.", show_default="setting history_dir, ./history/"
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", help="Certificate chain (PEM) to speak HTTPS with.", show_default="setting tls_cert"
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="Its private key (PEM).", show_default="setting tls_key")
    ] = None,
) -> None:
    """Start the daemon: rows in over HTTP, forecasts and alerts out. Ctrl-C stops it cleanly."""
    from tft_inference import serve as run_daemon

    del daemon  # the owner's command names it; there is no other way to run
    settings = settings_of(
        daemon_host=host, daemon_port=port, history_dir=history_dir, tls_cert=tls_cert, tls_key=tls_key
    )
    model_dir = model_dir or settings.models_dir / "latest"
    run_daemon(settings, model_dir, settings.daemon_host, settings.daemon_port, data)


keys_app = typer.Typer(
    help="Say who may ask the daemon: make, list and revoke API keys. Without any, everybody on this machine may, and "
    "nobody else.",
    epilog="More: Docs/DAEMON.md",
    no_args_is_help=True,
    context_settings=HELP_FLAGS,
    rich_markup_mode="rich",
)
app.add_typer(keys_app, name="keys")


@command(
    "create",
    "Docs/DAEMON.md",
    "python main.py keys create --name dashboard --scope read",
    "python main.py keys create --name prometheus --scope write --expires 90d",
    'curl -H "Authorization: Bearer $TFT_API_KEY" http://127.0.0.1:8000/status',
    group=keys_app,
)
def keys_create(
    name: Annotated[str, typer.Option(help="Who will use it; to know which one to revoke.")],
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(help="read: every GET; write: rows, acknowledgements, too; admin: the model, too."),
    ] = "read",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Valid for 90d, 12h or 30m.", show_default="until revoked")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once. A running daemon knows it within a second.

    The first key closes the daemon: from then on nobody is let in without one.
    """
    from api_keys import create_key

    path = settings_of().api_keys_file
    key, stored = create_key(path, name, scope, None if expires is None else _duration(expires, "--expires"))
    if as_json:
        show_json({"key": key, **stored.as_dict(), "file": str(path)})
        return
    print(key)
    until = "until it is revoked" if stored.expires is None else f"until {stored.as_dict()['expires']}"
    print(
        f"\nThis is the key of {name}, scope {scope}, valid {until}. It is not kept and cannot be shown again.\n"
        f"Send it as `Authorization: Bearer <key>`; our own programs take it from TFT_API_KEY.\n"
        f"To revoke it: python main.py keys revoke {stored.id}",
        file=sys.stderr,
    )


@command("list", "Docs/DAEMON.md", "python main.py keys list", group=keys_app)
def keys_list(as_json: Json = False) -> None:
    """List the keys: id, name, scope, state and times. What a key reads like, nobody knows any more."""
    from api_keys import list_keys

    path = settings_of().api_keys_file
    keys = [key.as_dict() for key in list_keys(path)]
    if as_json:
        show_json({"file": str(path), "keys": keys})
        return
    if not keys:
        print(f"There are no keys in {path}: the daemon lets in everybody on its machine, and nobody else.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "name", "scope", "state", "created", "ends", box=None, pad_edge=False)
    for key in keys:
        ends = key["revoked"] or key["expires"] or "never"
        times = (text.replace("T", " ").removesuffix(":00Z").removesuffix("Z") for text in (key["created"], ends))
        table.add_row(key["id"], escape(key["name"]), key["scope"], key["state"], *times)
    stdout().print(table)


@command("revoke", "Docs/DAEMON.md", "python main.py keys revoke 0f3a52c19b7e", group=keys_app)
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `keys list` shows it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key for good. A running daemon refuses it within a second; nothing needs to be restarted."""
    from api_keys import revoke_key

    stored = revoke_key(settings_of().api_keys_file, key_id)
    if as_json:
        show_json(stored.as_dict())
    else:
        done(f"Revoked: {stored.name} ({stored.scope})", stored.id)


def _duration(text: str, flag: str) -> timedelta:
    """Time of `90d`, `12h` or `30m`."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(d|h|m)\s*", text.lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time such as 90d, 12h or 30m.", param_hint=flag)
    return timedelta(**{{"d": "days", "h": "hours", "m": "minutes"}[found[2]]: int(found[1])})


@command(
    "dashboard",
    "Docs/DASHBOARD_GUIDE.md",
    "python main.py dashboard",
    "python main.py dashboard --port 8600 --daemon-url http://127.0.0.1:8000",
)
def dashboard(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on.", show_default="setting dashboard_port, 8501"),
    ] = None,
    daemon_url: Annotated[
        str | None, typer.Option("--daemon-url", help="Daemon to show.", show_default="setting daemon_url")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 shows it to your network.")] = "127.0.0.1",
) -> None:
    """Start the dashboard in the browser. Ctrl-C stops it."""
    from child_processes import port_is_free
    from tft_demo import dashboard_command

    settings = settings_of(dashboard_port=port, daemon_url=daemon_url)
    if not port_is_free(host, settings.dashboard_port):
        raise DaemonError(
            f"Port {settings.dashboard_port} of {host} is in use.",
            why="Two programs cannot listen on one port; the dashboard was not started.",
            fix="Stop the other one, or choose another: `python main.py dashboard --port 8502`.",
            document="Docs/DASHBOARD_GUIDE.md",
        )
    line = dashboard_command(host, settings.dashboard_port)
    environment = {**os.environ, "TFT_DAEMON_URL": settings.daemon_url}
    if os.name == "posix":  # become Streamlit, so that signals reach it and its exit code is ours
        os.execve(line[0], line, environment)  # noqa: S606
    raise typer.Exit(subprocess.run(line, env=environment, check=False).returncode)  # noqa: S603


@command(
    "demo",
    "QUICK_START.md",
    "make demo",
    "python main.py demo",
    "python main.py demo --check",
)
def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Verify forecasts and dashboard without a person, then stop.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the daemon.", show_default="8000, or the next free one"),
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option(
            "--dashboard-port",
            min=1,
            max=65535,
            help="Port of the dashboard.",
            show_default="8501, or the next free one",
        ),
    ] = None,
) -> None:
    """Everything at once: fleet, short training, daemon, live replay, dashboard. Ctrl-C stops all of it."""
    from tft_demo import run_demo

    run_demo(settings_of(), stdout(), port=port, dashboard_port=dashboard_port, check=check)


@command(
    "completion",
    "Docs/CLI.md",
    'eval "$(python main.py completion bash)"',
    "python main.py completion fish | source",
)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Shell that shall run the script.")],
) -> None:
    """Print a script by which a shell completes commands, options and their choices after `python main.py`."""
    from cli_completion import completion_script
    from cli_words import commands_of

    print(completion_script(shell, list(commands_of(typer.main.get_command(app)))), end="")
