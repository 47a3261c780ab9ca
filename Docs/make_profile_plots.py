"""Draw the pictures and work out the tables of SERVER_PROFILES.md: `python Docs/make_profile_plots.py [--tables]`.

Pictures: one per profile and one of the incidents, from the default fleet with seed 42 that begins on Monday,
2026-01-05; they need playwright and Chromium. With `--tables` the document's tables are brought up to date instead.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from config import default_threshold
from contract_parquet import read_frame
from dashboard_chart import ACCENT, GRID, INK, LIMIT, MUTED
from data_contract import DEFAULT_FLEET, METRIC_COLUMNS
from fleet_roles import CAUSES, ROLES
from metrics_generator import GeneratorOptions, generate

DOCS: Final = Path(__file__).resolve().parent
DOCUMENT: Final = DOCS / "SERVER_PROFILES.md"
OPTIONS: Final = GeneratorOptions(start=datetime(2026, 1, 5, tzinfo=timezone.utc))  # a Monday
CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
SIZE: Final = (1200, 640)
COLOURS: Final = 128  # enough for lines on white, at a third of the size

BUSY, QUIET, SOFT, CALM = ACCENT[0], "#b45309", "#94a3b8", "#15803d"
STATE_COLOURS: Final = {
    "idle": "#e2e8f0",
    "healthy": "#86d3a0",
    "morning_spike": "#facc15",
    "heavy_load": "#f97316",
    "critical_issue": "#b91c1c",
    "offline": "#111827",
    "recovery": "#a78bfa",
    "maintenance": "#38bdf8",
}
UNITS: Final = {
    "cpu_pct": "CPU, %",
    "mem_pct": "memory, %",
    "disk_io_mb_s": "disk I/O, MB/s",
    "latency_ms": "latency, ms",
}

# The metric that tells of each cause
TELLING: Final = {
    "memory_leak": "mem_pct",
    "disk_saturation": "disk_io_mb_s",
    "traffic_surge": "cpu_pct",
    "runaway_batch": "cpu_pct",
    "cascading_dependency": "latency_ms",
    "sudden_failure": "latency_ms",
}


@dataclass(frozen=True)
class Fleet:
    """The fleet of the document: rows sorted by time, and the ground truth of its incidents."""

    rows: pd.DataFrame
    incidents: pd.DataFrame

    def of(self, server: str) -> pd.DataFrame:
        """Rows of one server by time."""
        return self.rows[self.rows["server_name"] == server].set_index("timestamp")

    @cached_property
    def calm(self) -> pd.DataFrame:
        """Rows apart from incidents, outages and maintenance."""
        rows = self.rows
        told = rows["state"].isin(["maintenance", "offline"]).to_numpy(copy=True)
        for each in self.incidents.itertuples():
            end = OPTIONS.end if pd.isna(each.end) else each.end
            told |= ((rows["server_name"] == each.server_name) & rows["timestamp"].between(each.onset, end)).to_numpy()
        return rows[~told]

    def ranked(self, profile: str) -> tuple[list[str], list[str]]:
        """Servers that visibly do a profile's work (as many as its role says), and the others, by mean CPU."""
        means = self.calm.groupby(["profile", "server_name"], observed=True)["cpu_pct"].mean()[profile]
        names = [str(name) for name in means.sort_values().index]
        quiet = len(names) - int(np.ceil(ROLES[profile].busy * len(names)))
        return names[quiet:], names[:quiet]

    def typical(self, names: list[str], until: datetime) -> str:
        """The middle one of servers in their order, of those without an incident until then if there are any."""
        struck = set(self.incidents.loc[self.incidents["onset"] < until, "server_name"])
        calm = [name for name in names if name not in struck] or names
        return calm[len(calm) // 2]


@cache
def fleet() -> Fleet:
    """Let the fleet live for 30 days."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate(OPTIONS, folder)
        return Fleet(read_frame(made.data_file), pd.read_parquet(made.incidents_file))


# -------------------------------------------------------------------------------------------------------------- tables
def figure_of(value: float) -> str:
    """A value with two significant digits, whole numbers from 10 on."""
    if value < 0.0005:
        return "0"
    return f"{value:.0f}" if value >= 9.95 else f"{float(f'{value:.2g}'):g}"


def levels() -> Iterator[str]:
    """What the servers measure: median and p95 of each metric, offline time left out."""
    yield "| profile | servers | CPU, % | memory, % | disk I/O, MB/s | latency, ms |"
    yield "|---|---|---|---|---|---|"
    there = fleet().rows[fleet().rows["state"] != "offline"]
    for profile in ROLES:
        for which, names in zip(("busy", "others"), fleet().ranked(profile), strict=True):
            if not names:
                continue
            rows = there[there["server_name"].isin(names)]
            cells = [
                " / ".join(figure_of(rows[metric].quantile(share)) for share in (0.5, 0.95))
                for metric in METRIC_COLUMNS
            ]
            yield f"| `{profile}` | {len(names)} {which} | " + " | ".join(cells) + " |"


def causes() -> Iterator[str]:
    """What goes wrong, by profile: expected incidents of a server in 30 days, and the share of each cause."""
    yield "| profile | per server and 30 days | " + " | ".join(f"`{cause}`" for cause in CAUSES) + " |"
    yield "|---|---|" + "---|" * len(CAUSES)
    for profile, role in ROLES.items():
        shares = [f"{share / sum(role.causes):.0%}" if share else "–" for share in role.causes]
        yield f"| `{profile}` | {30 * role.incidents_per_day:.1f} | " + " | ".join(shares) + " |"


def roles() -> Iterator[str]:
    """What the roles add to a machine: how many work, how high, how little on weekends."""
    yield "| profile | busy servers | their peak of CPU, % | of disk I/O, MB/s | latency at rest, ms | weekend |"
    yield "|---|---|---|---|---|---|"
    for profile, role in ROLES.items():
        cells = ["–", "–"] if not role.busy else [_range(role.peak), _range(role.disk_peak)]
        yield (
            f"| `{profile}` | {role.busy:.0%} of {DEFAULT_FLEET[profile]} | {cells[0]} | {cells[1]} | "
            f"{_range(role.latency)} | {role.weekend:.0%} |"
        )


def _range(numbers: tuple[float, float]) -> str:
    return "–".join(f"{number:g}" for number in numbers)


TABLES: Final = {"levels": levels, "causes": causes, "roles": roles}


def table_in(text: str, name: str) -> re.Match[str]:
    """A table of the document: what stands between its two comments."""
    found = re.search(rf"(?<=<!-- table: {name} -->\n).*?(?=<!-- end -->)", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{DOCUMENT.name} has no place for the table {name!r}")
    return found


def write_tables() -> None:
    """Bring the document's tables up to date."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        place = table_in(text, name)
        text = text[: place.start()] + "\n".join(table()) + "\n" + text[place.end() :]
    DOCUMENT.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ pictures
def profile_picture(profile: str) -> go.Figure:
    """One week of a typical busy and a typical quiet server, and what the role does by the hour."""
    busy, quiet = fleet().ranked(profile)
    end = OPTIONS.begin + timedelta(days=7)
    shown = {"busy": fleet().typical(busy or quiet[-1:], end), "quiet": fleet().typical(quiet[:-1], end)}
    rows = {kind: fleet().of(name).loc[OPTIONS.begin : end - timedelta(minutes=5)] for kind, name in shown.items()}
    first = "a busy" if busy else "the busiest"
    figure = make_subplots(
        rows=3,
        cols=6,
        specs=[
            [{"colspan": 4}, None, None, None, {"colspan": 2, "rowspan": 2}, None],
            [{"colspan": 4}, None, None, None, None, None],
            [{"colspan": 2}, None, {"colspan": 2}, None, {"colspan": 2}, None],
        ],
        row_heights=[0.42, 0.27, 0.31],
        horizontal_spacing=0.055,
        vertical_spacing=0.135,
        subplot_titles=[
            f"CPU of <b>{_inked(shown['busy'], BUSY)}</b>, {first} server, %",
            f"Mean CPU of all {DEFAULT_FLEET[profile]} by hour of the day, %",
            f"CPU of <b>{_inked(shown['quiet'], QUIET)}</b>, a quiet one, % (scale of its own)",
            "Memory of both, %",
            "Disk I/O of both, MB/s",
            "Latency of both, ms",
        ],
    )
    for row, kind, colour in ((1, "busy", BUSY), (2, "quiet", QUIET)):
        _draw_line(figure, rows[kind]["cpu_pct"], row, 1, color=colour, width=1.3)
        top = max(5.0, 1.08 * float(rows[kind]["cpu_pct"].max()))
        figure.update_yaxes(range=[0, min(top, 101)], row=row, col=1)
        _draw_states(figure, rows[kind]["state"], row)
    for column, metric in ((1, "mem_pct"), (3, "disk_io_mb_s"), (5, "latency_ms")):
        for kind, colour in (("busy", BUSY), ("quiet", QUIET)):
            _draw_line(figure, rows[kind][metric], 3, column, color=colour, width=1)
        figure.update_yaxes(rangemode="tozero", nticks=4, row=3, col=column)
    _draw_hours(figure, profile)
    figure.update_xaxes(
        tickvals=pd.date_range(OPTIONS.begin, periods=7) + pd.Timedelta(hours=12),
        ticktext=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"],
        range=[rows["busy"].index[0], rows["busy"].index[-1]],
        showgrid=False,
        selector=lambda axis: axis.range is None,
    )
    for midnight in pd.date_range(OPTIONS.begin, periods=6) + pd.Timedelta(days=1):
        for place in ((1, 1), (2, 1), (3, 1), (3, 3), (3, 5)):
            figure.add_vline(x=midnight, line={"color": GRID[0], "width": 1}, layer="below", row=place[0], col=place[1])
    seen = [state for state in STATE_COLOURS if any((rows[kind]["state"] == state).any() for kind in rows)]
    for state in seen:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"symbol": "square", "size": 13, "color": STATE_COLOURS[state]},
            name=state,
            showlegend=True,
        )
    _dress(figure, f"{profile}: Monday to Sunday in 5-minute values; times are UTC")
    return figure


def _inked(text: str, colour: str) -> str:
    return f"<span style='color:{colour}'>{text}</span>"


def _draw_line(figure: go.Figure, values: pd.Series[Any], row: int, col: int, **line: Any) -> None:
    figure.add_scatter(x=values.index, y=values, mode="lines", line=line, showlegend=False, row=row, col=col)


def _draw_states(figure: go.Figure, states: pd.Series[Any], row: int) -> None:
    """A band above a row's first panel."""
    names = states.astype(str).to_numpy()
    edges = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1], [True]]))
    axis = "" if row == 1 else "3"
    for begin, end in itertools.pairwise(edges):
        figure.add_shape(
            type="rect",
            x0=states.index[begin],
            x1=states.index[min(end, len(names) - 1)],
            y0=1.02,
            y1=1.09 if row == 1 else 1.13,
            xref=f"x{axis}",
            yref=f"y{axis} domain",
            fillcolor=STATE_COLOURS[names[begin]],
            line={"width": 0},
        )


def _draw_hours(figure: go.Figure, profile: str) -> None:
    """Mean of the role by hour, over all 30 days but for incidents."""
    rows = fleet().calm
    rows = rows[rows["profile"] == profile]
    weekend = rows["timestamp"].dt.weekday >= 5
    hour = rows["timestamp"].dt.hour + rows["timestamp"].dt.minute // 30 / 2
    means = rows.groupby([weekend.rename("weekend"), hour.rename("hour")])["cpu_pct"].mean()
    for kind, name, colour, best, shift, dash in (
        (False, "Mon–Fri", INK[0], "idxmax", 12, "solid"),
        (True, "Sat, Sun", MUTED[0], "idxmin", -12, "dot"),
    ):
        curve = means[kind]
        curve.index = curve.index + 0.25
        _draw_line(figure, curve, 1, 5, color=colour, width=2.5, dash=dash)
        place = min(max(getattr(curve, best)(), 3), 21)
        height = getattr(curve, best[3:])()
        figure.add_annotation(
            x=place,
            y=height,
            text=name,
            showarrow=False,
            yshift=shift if height > 0.1 * means.max() else 12,
            font={"color": colour, "size": 15},
            row=1,
            col=5,
        )
    figure.update_xaxes(range=[0, 24], tickvals=[0, 4, 8, 12, 16, 20, 24], row=1, col=5)
    figure.update_yaxes(range=[0, max(1.0, 1.15 * float(means.max()))], row=1, col=5)


def incidents_picture() -> go.Figure:
    """One example of each cause: what the telling metric did before, during and after."""
    figure = make_subplots(rows=2, cols=3, horizontal_spacing=0.06, vertical_spacing=0.17, subplot_titles=[*CAUSES])
    for place, cause in enumerate(CAUSES):
        row, column = place // 3 + 1, place % 3 + 1
        incident = _example(cause)
        metric = TELLING[cause]
        rows = fleet().of(incident.server_name)
        profile = str(rows["profile"].iloc[0])
        rows = rows.loc[incident.onset - pd.Timedelta(hours=8) : incident.end + pd.Timedelta(hours=2)]
        hours = (rows.index - incident.breach) / pd.Timedelta(hours=1)
        limit = default_threshold(metric, profile)
        figure.layout.annotations[place].text = f"<b>{cause}</b>: {incident.server_name}, {UNITS[metric]}"
        _draw_line(figure, pd.Series(rows[metric].to_numpy(), hours), row, column, color=BUSY, width=1.8)
        top = 1.22 * max(limit, float(rows[metric].max()))
        figure.update_yaxes(range=[0, top], row=row, col=column)
        figure.add_hline(y=limit, line={"color": LIMIT[0], "width": 1.3, "dash": "dash"}, row=row, col=column)
        down = rows["state"] == "offline"
        if down.any():
            figure.add_vrect(
                x0=hours[down][0],
                x1=hours[down][-1] + 1 / 12,
                fillcolor=STATE_COLOURS["offline"],
                opacity=0.16,
                line_width=0,
                row=row,
                col=column,
            )
        for moment, name, colour, side in (
            (incident.onset, "onset", MUTED[0], "right"),
            (incident.breach, "breach", LIMIT[0], "right"),
            (incident.end, "end", CALM, "left"),
        ):
            if cause == "sudden_failure" and name == "onset":
                continue
            hour = (moment - incident.breach) / pd.Timedelta(hours=1)
            figure.add_vline(x=hour, line={"color": colour, "width": 1.3, "dash": "dot"}, row=row, col=column)
            figure.add_annotation(
                x=hour,
                y=top * (0.9 if name == "onset" else 1),
                text=name,
                showarrow=False,
                xanchor=side,
                yanchor="top",
                font={"color": colour, "size": 14},
                bgcolor="rgba(255,255,255,0.8)",
                row=row,
                col=column,
            )
        figure.update_xaxes(range=[hours[0], hours[-1]], showgrid=False, dtick=2, ticksuffix=" h", row=row, col=column)
    _dress(figure, "One incident of each cause; hours from the breach, dashed: threshold, grey: offline")
    return figure


def _example(cause: str) -> Any:
    """The incident with the middle lead time of those that the data holds whole and the telling metric gives away."""
    known, metric = fleet().incidents, TELLING[cause]
    whole = known[
        (known["cause"] == cause) & known["end"].notna() & (known["onset"] >= OPTIONS.begin + pd.Timedelta(hours=8))
    ]
    broken = []
    for incident in whole.itertuples():
        first = fleet().of(incident.server_name).loc[incident.breach]
        broken.append(bool(first[metric] > default_threshold(metric, first["profile"])))
    told = whole[broken]
    ordered = told.assign(lead=told["breach"] - told["onset"]).sort_values(["lead", "onset"])
    return next(ordered.iloc[[len(ordered) // 2]].itertuples())


def _dress(figure: go.Figure, title: str) -> None:
    figure.update_annotations(selector=lambda note: note.yref == "paper", font={"size": 15, "color": INK[0]}, yshift=13)
    figure.update_layout(
        template="plotly_white",
        title={"text": f"<b>{title}</b>", "x": 0.012, "y": 0.975, "yanchor": "top", "font": {"size": 20}},
        font={"family": "Inter, DejaVu Sans, sans-serif", "size": 14, "color": INK[0]},
        margin={"l": 48, "r": 20, "t": 86, "b": 62},
        legend={
            "orientation": "h",
            "x": 0,
            "y": -0.075,
            "yanchor": "top",
            "title": {"text": "State (band above): ", "font": {"size": 14}},
        },
        width=SIZE[0],
        height=SIZE[1],
    )
    figure.update_xaxes(linecolor=GRID[0], zeroline=False)
    figure.update_yaxes(gridcolor=GRID[0], zeroline=False)


def take(figures: dict[str, go.Figure], out_dir: Path) -> list[Path]:
    """Save every figure as a PNG of its name."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    saved = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.set_content("<body style='margin:0'><div id='plot'></div></body>")
        page.add_script_tag(content=get_plotlyjs())
        for name, figure in figures.items():
            page.evaluate(
                "figure => Plotly.newPlot('plot', figure.data, figure.layout, {staticPlot: true})",
                json.loads(figure.to_json()),
            )
            target = out_dir / f"{name}.png"
            with Image.open(io.BytesIO(page.screenshot())) as picture:
                few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # rare colours stay
                few.save(target, optimize=True)
            saved.append(target)
        browser.close()
    return saved


def main() -> None:
    """Draw all pictures, or work out the tables."""
    if sys.argv[1:] == ["--tables"]:
        write_tables()
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        figures = {f"profile_{profile}": profile_picture(profile) for profile in ROLES}
        for path in take({**figures, "incidents": incidents_picture()}, DOCS / "images"):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
