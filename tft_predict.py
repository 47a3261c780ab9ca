"""How a file of contract rows becomes forecasts without a daemon, and how forecasts look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common_utils import iso_z, utc_now, write_json
from config import Settings
from data_contract import HORIZONS, METRICS, SERVER_NAME, ContractError, DataFileError, shorten
from data_validator import load_valid_tail
from fleet_grid import FleetGrid

SHOWN_SERVERS = 10
WIDE_SCREEN = 100  # columns that all horizons need
NAME_WIDTH = 12  # columns that a name keeps; what is longer gives way to the figures


def forecast_file(
    settings: Settings, model_dir: Path, data_path: Path, servers: Sequence[str] | None = None
) -> dict[str, Any]:
    """Forecast from the end of a file, in the form of `GET /predictions/current`.

    Parameters
    ----------
    model_dir, data_path : Path
        A model folder, and a Parquet file or folder of contract rows; only its newest `history_hours` are read.
    servers : sequence of str, optional
        Only these servers.

    Raises
    ------
    ModelFolderError, DataFileError
        If the model or the data cannot be used.
    ContractError
        If the rows break the contract, or if a server is not among them.
    """
    from tft_forecaster import Forecaster  # imports torch
    from tft_risk import assess, prediction_records

    forecaster = Forecaster.load(model_dir)
    frame = load_valid_tail(data_path, settings.history_hours)
    if servers:
        absent = sorted(set(servers) - set(frame[SERVER_NAME]))
        if absent:
            raise ContractError(
                f"The last {settings.history_hours} hours of {data_path} hold no rows of {shorten(absent)}.",
                why="A forecast starts from the server's own recent history.",
                fix="Check the name; `python main.py predict --json` lists all servers that have a forecast.",
            )
        frame = frame[frame[SERVER_NAME].isin(servers)]
    grid = FleetGrid.from_frame(frame)
    forecast = forecaster.predict_grid(grid)
    records = list(prediction_records(forecast, assess(forecast, settings), grid))
    return {
        "model": {"name": forecaster.info.name, "model_version": forecaster.info.model_version},
        "prediction_time": iso_z(forecast.origin),
        "generated_at": iso_z(utc_now().replace(microsecond=0)),
        "count": len(records),
        "predictions": records,
    }


def write_forecasts(path: Path, answer: dict[str, Any]) -> None:
    """Write forecasts as a JSON file.

    Raises
    ------
    DataFileError
        If it cannot be written; what was there before stays.
    """
    try:
        write_json(path, answer)
    except OSError as error:
        raise DataFileError(
            f"{path} cannot be written: {error.strerror or error}.",
            why="The forecasts were made but not kept; nothing half-written was left behind.",
            fix="Free some space, mend the permissions or choose another file with --out.",
            document="Docs/ESSENTIAL_RAG.md",
        ) from error


def show_forecasts(answer: dict[str, Any], console: Console, settings: Settings, limit: int = SHOWN_SERVERS) -> None:
    """Print the servers with the highest risk: each metric now and at the horizons (as many as the screen is wide)."""
    horizons = list(HORIZONS) if console.width >= WIDE_SCREEN else [*list(HORIZONS)[:1], *list(HORIZONS)[-1:]]
    table = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("server", overflow="ellipsis", min_width=NAME_WIDTH)
    table.add_column("risk", no_wrap=True, justify="right")
    for metric in METRICS:
        table.add_column(f"{metric.label} {metric.unit}", no_wrap=True)
    ranked = sorted(answer["predictions"], key=lambda record: -(record["risk"] or 0.0))
    for record in ranked[:limit]:
        cells = []
        for metric in METRICS:
            ahead = [_number(record["predictions"][horizon][metric.column]) for horizon in horizons]
            cells.append(f"{_number(record['current'][metric.column])} → {'/'.join(ahead)}")
        table.add_row(escape(record["server_name"]), _risk(record["risk"], settings), *cells)
    console.print(table)
    console.print(
        f"now → in {', '.join(horizons)} (medians); {min(limit, answer['count'])} of {answer['count']:,} servers, "
        f"highest risk first; forecast of {answer['prediction_time']} by {answer['model']['name']}",
        style="dim",
    )


def _risk(risk: float | None, settings: Settings) -> str:
    if risk is None:
        return "-"
    colour = "green" if risk < settings.risk_yellow else "yellow" if risk <= settings.risk_red else "red"
    return f"[{colour}]{risk:.2f}[/{colour}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}"


def _self_check() -> None:
    from config import load_settings

    values = {metric.column: 41.2 for metric in METRICS} | {METRICS[-1].column: None}
    record = {
        "server_name": "ppweb001",
        "risk": 0.42,
        "current": values,
        "predictions": dict.fromkeys(HORIZONS, values),
    }
    answer = {"predictions": [record], "count": 1, "prediction_time": "2026-01-05T08:00:00Z", "model": {"name": "demo"}}
    for width, cell in ((80, "41 → 41/41"), (120, "41 → 41/41/41")):
        console = Console(width=width, no_color=True)
        with console.capture() as capture:
            show_forecasts(answer, console, load_settings())
        assert all(text in capture.get() for text in (cell, "- → -/-", "0.42", "ppweb001"))
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
