"""Why the forecasts from a file are as they are, without a daemon, and how that looks in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from config import Settings
from data_contract import HORIZONS, METRICS
from data_validator import load_valid_tail
from fleet_grid import FleetGrid

_BAR_WIDTH = 20
_SMALLEST_SHOWN = 0.005  # shares that would be told as 0 %


def explain_file(settings: Settings, model_dir: Path, data_path: Path, server_name: str) -> dict[str, Any]:
    """Explain the forecast of one server from the end of a file.

    Parameters
    ----------
    model_dir, data_path : Path
        A model folder, and a Parquet file or folder of contract rows; only its newest `history_hours` are read.

    Raises
    ------
    ModelFolderError, DataFileError
        If the model or the data cannot be used.
    ContractError
        If the rows break the contract, or if the server is not among them.
    """
    from forecast_explanation import explain
    from tft_forecaster import Forecaster  # imports torch

    forecaster = Forecaster.load(model_dir)
    grid = FleetGrid.from_frame(load_valid_tail(data_path, settings.history_hours))
    return {
        "model": {"name": forecaster.info.name, "model_version": forecaster.info.model_version},
        **explain(forecaster, grid, server_name).as_dict(),
    }


def show_explanation(answer: dict[str, Any], console: Console) -> None:
    """Print an explanation: the sentence, what was read, where it looked, and what the forecast starts from."""
    unknown = "" if answer["known"] else ", unknown to the model"
    console.print(f"{answer['server_name']} ({answer['profile']}{unknown})", style="bold", markup=False)
    console.print(answer["sentence"], markup=False)
    for title, shares in (
        ("what it is", answer["static"]),
        ("what was seen of the past", answer["past"]),
        ("what is known of the hours ahead", answer["future"]),
    ):
        console.print(_shares(title, [(name, share, "") for name, share in shares.items()]))
    attention = answer["attention"]
    hours = [
        (f"{hour['hours_before']} h before", hour["share"], _holes(hour["measured"]))
        for hour in attention["past_hours"]
    ]
    console.print(
        _shares(
            "where it looked",
            [*hours, ("hours ahead", attention["ahead"], ""), ("without data", attention["without_data"], "")],
        )
    )
    console.print(_starts(answer["anchors"]))
    console.print(f"forecast of {answer['prediction_time']} by {answer['model']['name']}", style="dim", markup=False)


def _shares(title: str, rows: list[tuple[str, float, str]]) -> Table:
    """Bars of shares; what would be told as 0 % is left out."""
    table = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column(title, overflow="ellipsis", no_wrap=True)
    table.add_column("share", no_wrap=True, justify="right")
    table.add_column("")
    largest = max((share for _, share, _ in rows), default=0.0) or 1.0
    for name, share, note in rows:
        if share >= _SMALLEST_SHOWN or note:
            table.add_row(escape(name), f"{share:.0%}", "█" * round(_BAR_WIDTH * share / largest) + note)
    return table


def _holes(measured: float) -> str:
    return "" if measured == 1 else " nothing measured" if measured == 0 else f" {measured:.0%} measured"


def _starts(anchors: dict[str, dict[str, dict[str, float]] | None]) -> Table:
    """What the forecast of each metric starts from, per horizon."""
    table = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("it starts from", no_wrap=True)
    for horizon in HORIZONS:
        table.add_column(f"in {horizon}", overflow="fold")
    for metric in METRICS:
        shares = anchors[metric.column]
        cells = (
            ["not reported", *[""] * (len(HORIZONS) - 1)]
            if shares is None
            else [
                ", ".join(f"{name} {share:.0%}" for name, share in shares[horizon].items() if share >= _SMALLEST_SHOWN)
                for horizon in HORIZONS
            ]
        )
        table.add_row(metric.label, *map(escape, cells))
    return table


def _self_check() -> None:
    shares = {"CPU of the last hours": 0.75, "[red]": 0.25}
    hours = [{"hours_before": 1, "share": 0.6, "measured": 1.0}, {"hours_before": 2, "share": 0.0, "measured": 0.0}]
    starts = {horizon: {"same as now": 1.0} for horizon in HORIZONS}
    answer = {
        "server_name": "[bold]x",
        "profile": "generic",
        "known": False,
        "sentence": "Because.",
        "static": shares,
        "past": shares,
        "future": shares,
        "model": {"name": "demo"},
        "attention": {"past_hours": hours, "ahead": 0.4, "without_data": 0.0},
        "anchors": {metric.column: starts for metric in METRICS} | {METRICS[-1].column: None},
        "prediction_time": "2026-01-05T08:00:00Z",
    }
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        show_explanation(answer, console)
    told = ("[bold]x", "unknown to the model", "[red]", "75%", "nothing measured", "same as now 100%", "not reported")
    assert all(text in capture.get() for text in told), capture.get()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
