"""How a backtest looks in a terminal: one table of all methods, and in sentences who won, who lost and what is odd.

Draws what `--json` prints; knows nothing of how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data_contract import METRICS
from training_options import duration_text

if TYPE_CHECKING:
    from rich.console import Console

_ALL = "all"
_LABELS = {_ALL: "all", **{metric.column: metric.label for metric in METRICS}}
_MEASURES = {"crps": "CRPS", "mase": "MASE"}
_WANTED_COVERAGE, _COVERAGE_TOLERANCE = 0.8, 0.03
_WIDE_SCREEN = 110
_MODEL = "tft"


def show_backtest(answer: dict[str, Any], console: Console) -> None:
    """Print a backtest: `BacktestResult.as_dict()`."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    what = answer["what"]
    console.print(
        f"{what['servers']:,} servers ({what['held_out_servers']:,} of them never learned from), "
        f"{what['origins']:,} origins, {what['test_from']} to {what['test_until']}; "
        f"{escape(what['model']['name'])}, trained on data until {what['model']['trained_until']}.",
        soft_wrap=True,
    )
    scored = [method for method in answer["methods"] if method["skipped"] is None]
    table = Table(header_style="bold", pad_edge=False, box=box.SIMPLE_HEAD)
    table.add_column("CRPS/MASE", overflow="ellipsis", min_width=10)
    for label in _LABELS.values():
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("p10–p90", justify="right", no_wrap=True)
    rows = _whole(answer)
    best = _best(answer)
    for method in scored:
        name = method["name"]
        cells = []
        for metric in _LABELS:
            row = rows[name, metric]
            cells.append(
                "/".join(
                    _marked(_number(row[key], digits), is_best=name in best.get((metric, key), ()))
                    for key, digits in (("crps", 3), ("mase", 2))
                )
            )
        shown = method["title"] if console.width >= _WIDE_SCREEN else name
        table.add_row(escape(shown), *cells, _percent(rows[name, _ALL]["coverage_p10_p90"]))
    console.print(table)
    console.print(
        "Lower is better, the best is green. p10–p90: how much of what came true lay between them, 80 % are wanted.",
        style="dim",
        soft_wrap=True,
    )
    for style, sentence in sentences(answer):
        console.print(sentence, style=style, markup=False, soft_wrap=True)


def sentences(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person should know of a backtest, each with a colour."""
    yield from _standing(answer)
    rows = _whole(answer)
    for metric, label in _LABELS.items():
        share = rows[_MODEL, metric]["coverage_p10_p90"] if metric != _ALL else None
        if share is not None and abs(share - _WANTED_COVERAGE) > _COVERAGE_TOLERANCE:
            yield "yellow", f"{label}: the model's p10 to p90 hold {_percent(share)} of what came true, not 80 %."
    yield from _unknown_servers(answer)
    crossed = answer["crossings"].get(_MODEL, 0)
    if crossed:
        yield "red", f"Quantiles of the model cross at {crossed:,} steps."
    for method in answer["methods"]:
        if method["skipped"] is not None:
            yield "yellow", f"{method['title']} was left out: {method['skipped']}"
        elif method["unanswered"]:
            yield "yellow", f"{method['title']} had no answer to {method['unanswered']:,} labels; they are not scored."
    for note in answer["what"]["notes"]:
        yield "dim", note
    yield "dim", f"It took {duration_text(answer['what']['seconds'])}."


def _standing(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the model is the best, and where it is not, metric by metric."""
    rows, best = _whole(answer), _best(answer)
    titles = {method["name"]: method["title"] for method in answer["methods"]}
    others = len({name for name, _ in rows}) - 1
    if not others:
        yield "yellow", "Nothing to compare with: no baseline was scored."
        return
    won, lost = [], []
    for metric, label in _LABELS.items():
        for key, measure in _MEASURES.items():
            winners = best.get((metric, key))
            if metric == _ALL or not winners:
                continue
            what = f"{label} {measure}"
            if _MODEL in winners:
                won.append(what)
            else:
                own, its = rows[_MODEL, metric][key], rows[winners[0], metric][key]
                lost.append(f"{what}: {titles[winners[0]]} {_number(its, 3)}, the model {_number(own, 3)}")
    if won:
        yield "green", f"The model is the best of {others + 1} methods in {', '.join(won)}."
    if lost:
        yield "red", f"It is not the best in {'; '.join(lost)}."


def _unknown_servers(answer: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How much worse servers are forecast that the model has not learned from, and what their profile is worth."""
    of = {
        (row["group"], row["value"]): row
        for row in answer["scores"]
        if row["method"] == _MODEL and row["metric"] == _ALL and row["group"] in ("server", "profile_known")
    }
    for key, measure in _MEASURES.items():
        known, unseen = (of.get(("server", value), {}).get(key) for value in ("known", "held_out"))
        if known and unseen is not None:
            ratio = unseen / known
            yield (
                "green" if ratio <= 1.1 else "yellow",
                f"Servers never learned from: {measure} {_number(unseen, 3)}, {ratio:.2f} × that of known ones.",
            )
        told, hidden = (of.get(("profile_known", value), {}).get(key) for value in ("known", "generic"))
        if told is not None and hidden is not None:
            colour = "green" if told < hidden else "yellow"
            yield colour, f"Their profiles: {measure} {_number(told, 3)} with them, {_number(hidden, 3)} when hidden."


def _whole(answer: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Score of each method and metric over everything."""
    return {(row["method"], row["metric"]): row for row in answer["scores"] if row["group"] == "all"}


def _best(answer: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Methods with the lowest score of each metric and measure; more than one where they are equal as shown."""
    found: dict[tuple[str, str], list[str]] = {}
    rows = _whole(answer)
    for metric in _LABELS:
        for key in _MEASURES:
            scores = {name: row[key] for (name, of), row in rows.items() if of == metric and row[key] is not None}
            if scores:
                found[metric, key] = [name for name, score in scores.items() if score == min(scores.values())]
    return found


def _marked(text: str, *, is_best: bool) -> str:
    return f"[bold green]{text}[/bold green]" if is_best else text


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _self_check() -> None:
    def row(method: str, crps: float, group: str = "all", value: str = "all", metric: str = "all") -> dict[str, Any]:
        score = {"crps": crps, "mase": crps, "coverage_p10_p90": 0.8}
        return {"method": method, "metric": metric, "group": group, "value": value, **score}

    answer = {
        "scores": [
            *(row(name, crps, metric=metric) for name, crps in ((_MODEL, 0.2), ("ridge", 0.3)) for metric in _LABELS),
            row(_MODEL, 0.2, "server", "known"),
            row(_MODEL, 0.3, "server", "held_out"),
        ],
        "methods": [{"name": name, "title": name, "skipped": None, "unanswered": 0} for name in (_MODEL, "ridge")],
        "crossings": {},
        "what": {"notes": [], "seconds": 2.0},
    }
    told = [sentence for _, sentence in sentences(answer)]
    assert told[0].startswith("The model is the best of 2 methods in CPU CRPS, CPU MASE")
    assert "1.50 × that of known ones" in told[1]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
