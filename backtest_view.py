"""How a backtest looks in a terminal: one table of all methods, and below it who won, who lost and what is odd.

Draws what `--json` prints; what is said of it is `backtest_words.py`'s, so that terminal and report agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backtest_words import (
    ALL,
    COMPARED,
    METRIC_LABELS,
    Scores,
    best_methods,
    findings,
    headline,
    percent,
    scored_methods,
)
from training_options import duration_text

if TYPE_CHECKING:
    from rich.console import Console

_WIDE_SCREEN = 110  # columns that titles of methods need
_DIGITS = {"crps": 3, "mase": 3}
_COLOURS = {"good": "green", "bad": "red", "note": "yellow"}


def show_backtest(answer: dict[str, Any], console: Console) -> None:
    """Print a backtest: `BacktestResult.as_dict()`."""
    from rich.text import Text

    what = answer["what"]
    console.print(
        f"{what['servers']:,} servers ({what['held_out_servers']:,} of them never learned from), "
        f"{what['origins']:,} origin{'' if what['origins'] == 1 else 's'}, {what['test_from']} to "
        f"{what['test_until']}; {what['model']['name']}, trained on data until {what['model']['trained_until']}.",
        markup=False,
        soft_wrap=True,
    )
    if console.width >= _WIDE_SCREEN:
        console.print(_table(answer, tuple(COMPARED), is_wide=True))
    else:
        for measure in COMPARED:
            console.print(_table(answer, (measure,), is_wide=False))
    console.print(
        "Lower is better, the best is green. p10–p90: how much of what came true lies between them, 80 % is right.",
        style="dim",
        soft_wrap=True,
    )
    for sentence in (headline(answer), *findings(answer)):
        console.print(Text(f"· {sentence.text}", style=_COLOURS[sentence.level]), soft_wrap=True)
    console.print(f"It took {duration_text(what['seconds'])}.", style="dim")


def _table(answer: dict[str, Any], measures: tuple[str, ...], *, is_wide: bool) -> Any:
    """One line per method: scores over all metrics and of each, and coverage."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    scores, titles = Scores(answer), scored_methods(answer)
    columns = {ALL: ALL, **METRIC_LABELS}
    best = {(metric, key): best_methods(scores, list(titles), metric, key) for metric in columns for key in measures}
    table = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("/".join(COMPARED[key] for key in measures), overflow="ellipsis", no_wrap=True, min_width=10)
    for label in columns.values():
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("p10–p90", justify="right", no_wrap=True)
    for name, title in titles.items():
        cells = []
        for metric in columns:
            cell = Text()
            for key in measures:
                cell.append("/" if cell else "")
                style = "bold green" if name in best[metric, key] else ""
                cell.append(_number(scores.of(name, metric, key), _DIGITS[key]), style=style)
            cells.append(cell)
        coverage = percent(scores.of(name, ALL, "coverage_p10_p90"), 0)
        table.add_row(Text(title if is_wide else name), *cells, coverage)
    return table


def _number(score: float | None, digits: int) -> str:
    return "–" if score is None else f"{score:.{digits}f}" if abs(score) < 100 else f"{score:.1e}"


def _self_check() -> None:
    from rich.console import Console

    methods = [{"name": name, "title": name.upper(), "skipped": None} for name in ("tft", "ridge")]
    score = {"metric": "cpu_pct", "group": ALL, "value": ALL, "coverage_p10_p90": 0.8, "labels": 9}
    rows = [{**score, "method": name, "crps": crps, "mase": 1.5} for name, crps in (("tft", 0.2), ("ridge", 0.3))]
    what = {"servers": 2, "held_out_servers": 0, "origins": 1, "test_from": "", "test_until": "", "seconds": 2.0}
    what["model"] = {"name": "demo", "trained_until": ""}
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        show_backtest({"what": what, "methods": methods, "scores": rows}, console)
    assert all(part in capture.get() for part in ("TFT", "0.200/1.500", "0.300/1.500", "Of 2 methods", "It took 2 s"))
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
