"""Does the document of the profiles say what the generator does: tables, hours, states, incidents, pictures?"""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import default_threshold
from data_contract import METRIC_COLUMNS, NAME_FORMATS, VALID_PROFILES, VALID_STATES
from fleet_archetypes import archetypes
from fleet_incidents import LEAST_LEAD, LONGEST_LEAD, EventBook
from fleet_load import draw_machines
from fleet_rhythm import Rhythms
from fleet_roles import CAUSES, ROLES
from fleet_states import StateBook
from fleet_tables import INCIDENTS_SCHEMA
from metrics_generator import GeneratorOptions, generate

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Docs" / "SERVER_PROFILES.md").read_text(encoding="utf-8")
MONDAY = date(2026, 1, 5)
SCRIPT = ROOT / "Docs" / "make_profile_plots.py"


@pytest.fixture(scope="module")
def script():
    """The script that makes the tables."""
    spec = importlib.util.spec_from_file_location("make_profile_plots", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def rows_of(header: str) -> dict[str, list[str]]:
    """Rows of the table whose header begins so: first cell → the others, without backticks."""
    found = re.search(rf"^\| {re.escape(header)}.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    cells = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return {first: rest for first, *rest in cells}


def hours(text: str) -> tuple[float, float]:
    """The two times of a range such as 00:18–03:12, in hours."""
    first, last = re.match(r"(\d\d:\d\d)–(\d\d:\d\d)", text).groups()
    return tuple(int(clock[:2]) + int(clock[3:]) / 60 for clock in (first, last))


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_profiles_and_their_names_are_those_of_the_contract():
    told = rows_of("profile | names")
    assert set(told) == set(VALID_PROFILES)
    for profile, (names, *_) in told.items():
        prefix, digits = NAME_FORMATS[profile]
        assert names == prefix + "#" * digits
    for profile in VALID_PROFILES:
        assert f"\n### {profile}\n\n![{profile}](images/profile_{profile}.png)\n" in TEXT


@pytest.mark.parametrize("name", ["roles", "causes"])
def test_the_tables_of_roles_and_causes_are_those_of_the_program(script, name):
    assert script.table_in(TEXT, name)[0].splitlines() == list(script.TABLES[name]())


@pytest.mark.slow
def test_the_levels_are_measured(script):
    """`python Docs/make_profile_plots.py --tables` brings them up to date."""

    def parsed(lines: list[str]) -> tuple[list[str], np.ndarray]:
        numbers = [[float(each) for each in re.findall(r"(?<=[| ])[\d.]+(?= [/|])", line)] for line in lines[2:]]
        return [line.split(" | ")[0] for line in lines], np.array(numbers)

    told, measured = parsed(script.table_in(TEXT, "levels")[0].splitlines()), parsed(list(script.levels()))
    assert told[0] == measured[0] and told[1].shape == (13, 8)
    # Other machines round a little differently; other numbers than that: run the script
    np.testing.assert_allclose(told[1], measured[1], rtol=0.15, atol=0.002, err_msg=f"python {SCRIPT} --tables")


def test_the_thresholds_are_those_as_shipped():
    told = rows_of("profile | CPU, % | memory, % | disk I/O, MB/s | latency, ms")
    told = {profile: told.get(profile, told["all others"]) for profile in VALID_PROFILES}
    for profile, limits in told.items():
        assert [float(limit) for limit in limits] == [default_threshold(metric, profile) for metric in METRIC_COLUMNS]


def test_the_number_of_measured_machines_is_that_of_the_file():
    machines = sum(len(each.quantum) for each in archetypes().values())
    assert f"statistics of {machines} real machines" in TEXT


def test_cpu_and_memory_are_capped_as_told():
    cpu, ml, memory = map(
        float, re.search(r"capped at ([\d.]+) % \(`ml_compute`: ([\d.]+) %\) and memory at ([\d.]+) %", TEXT).groups()
    )
    profiles = list(VALID_PROFILES) * 60
    machines, _ = draw_machines(profiles, np.random.default_rng(1))
    learning = np.array([profile == "ml_compute" for profile in profiles])
    highest = machines.quantiles[:, :2, -1]
    told = [cpu, ml, memory]
    found = [highest[~learning, 0].max(), highest[learning, 0].max(), highest[:, 1].max()]
    assert all(limit * 0.95 < value <= limit for limit, value in zip(told, found, strict=True)), found


# --------------------------------------------------------------------------------------------------------------- hours


def windows(profile: str, days: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """When the work of 150 busy servers begins, and how long it lasts, in hours: middle of some working days."""
    servers = 150
    rhythms = Rhythms([ROLES[profile]] * servers, np.ones(servers, np.bool_), np.random.default_rng(1))
    begins, lengths = [], []
    for number in range(days):
        day = MONDAY + timedelta(days=number)
        if day.weekday() < 5:
            load = rhythms.day(day, np.random.default_rng(number)).load
            high = load > (load.max(axis=1, keepdims=True) + load.min(axis=1, keepdims=True)) / 2
            begins.append(high.argmax(axis=1) / 12)
            lengths.append(high.sum(axis=1) / 12)
    return np.median(begins, axis=0), np.median(lengths, axis=0)


@pytest.mark.parametrize(
    ("what", "profile", "lasts"),
    [
        ("batch at night, longer around the end of a month", "data_ingest", (0.7, 4.0)),
        ("risk run after the market has closed, Mon–Fri", "risk_analytics", (1.2, 2.4)),
    ],
)
def test_batches_run_when_the_document_says(what, profile, lasts):
    _, told, length = rows_of("what | who")[what]
    begins, lengths = windows(profile)
    assert np.quantile(begins, [0.01, 0.99]) == pytest.approx(hours(told), abs=0.3)
    assert length == {0.7: "42 min – 4 h", 1.2: "72 min – 2 h 24 min"}[lasts[0]]
    assert np.quantile(lengths, [0.02, 0.98]) == pytest.approx(lasts, abs=0.4)


def test_the_morning_peaks_when_the_document_says():
    rhythms = Rhythms([ROLES["web_api"]] * 150, np.ones(150, np.bool_), np.random.default_rng(1))
    morning = rhythms.day(MONDAY, np.random.default_rng(2)).morning
    told = hours(rows_of("what | who")["peak of the morning, Mon–Fri, higher on Mondays"][1])
    assert np.quantile(morning.argmax(axis=1) / 12, [0.02, 0.98]) == pytest.approx(told, abs=0.1)


# ---------------------------------------------------------------------------------------------------- states, incidents


def test_the_states_are_those_of_the_contract_and_change_at_the_margins_told():
    told = rows_of("state | when")
    assert set(told) == set(VALID_STATES)
    low, high = map(float, re.match(r"CPU below (\d+) % until above (\d+) %", told["idle"][0]).groups())
    enter, leave, full, less = map(
        float,
        re.match(
            r"CPU from (\d+) % on until below (\d+) %, or memory from (\d+) % on until below (\d+) %",
            told["heavy_load"][0],
        ).groups(),
    )

    def states(cpu: list[float], memory: list[float]) -> list[str]:
        """State after each level has lasted for an hour."""
        lasting = [np.repeat(np.array([each]), 12, axis=1) for each in (cpu, memory)]
        none = np.zeros(lasting[0].shape, np.bool_)
        found = StateBook(1).day(*lasting, none, critical=none, recovering=none, patching=none, down=none)
        return [VALID_STATES[code] for code in found[0, 11::12]]

    cpu = [low + 0.1, low - 0.1, high - 0.1, high + 0.1, enter - 0.1, enter, leave + 0.1, leave - 0.1]
    assert states(cpu, [10] * 8) == ["healthy", "idle", "idle", *["healthy"] * 2, *["heavy_load"] * 2, "healthy"]
    assert states([20] * 4, [full - 0.1, full, less + 0.1, less - 0.1]) == [
        "healthy",
        "heavy_load",
        "heavy_load",
        "healthy",
    ]


def test_maintenance_is_planned_as_the_document_says():
    told = rows_of("state | when")["maintenance"][0]
    days, first, last, *minutes = re.match(
        r"planned: every (\d+) days .* between (\d\d:\d\d) and (\d\d:\d\d), for (\d+)–(\d+) minutes "
        r"and a reboot of (\d+)–(\d+) minutes",
        told,
    ).groups()
    servers = 300
    book = EventBook(["generic"] * servers, np.ones(servers, np.bool_), np.random.default_rng(1))
    begins, lengths, reboots = [], [], []
    for number in range(int(days)):
        day = book.day(MONDAY + timedelta(days=number), number * 288, np.random.default_rng(number))
        for server in np.flatnonzero(day.patching.any(axis=1)):
            begins.append(int(day.patching[server].argmax()) * 5)
            lengths.append(int((day.patching & ~day.rebooting)[server].sum()) * 5)
            reboots.append(int(day.rebooting[server].sum()) * 5)
    assert 0.9 * servers < len(begins) <= servers  # all but those that an incident keeps from it
    clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in (min(begins), max(begins))]
    assert clock == [first, last]
    assert [min(lengths), max(lengths), min(reboots), max(reboots)] == [int(each) for each in minutes]


def test_the_causes_are_those_of_the_program_with_the_lead_told():
    assert list(rows_of("cause | what")) == list(CAUSES)
    least, longest = re.search(r"comes (\d+) minutes to (\d+) hours after the onset", TEXT).groups()
    assert (int(least), int(longest)) == (5 * LEAST_LEAD, 5 * LONGEST_LEAD // 60)


def test_outages_follow_the_causes_as_often_as_told():
    told = {cause: cells[1] for cause, cells in rows_of("cause | what").items()}
    shares = {cause: {"never": 0.0, "always": 1.0}.get(text) for cause, text in told.items()}
    shares = {cause: float(told[cause].strip("%")) / 100 if each is None else each for cause, each in shares.items()}
    profiles = list(VALID_PROFILES) * 300
    book = EventBook(profiles, np.ones(len(profiles), np.bool_), np.random.default_rng(1))
    seen: dict[tuple[int, int], tuple[str, bool]] = {}
    for number in range(15):
        day = book.day(MONDAY + timedelta(days=number), number * 288, np.random.default_rng(number))
        seen.update({(each.server, each.begin): (each.cause, each.down > 0) for each in day.incidents})
    for cause, share in shares.items():
        downs = [down for each, down in seen.values() if each == cause]
        assert len(downs) > 40 and np.mean(downs) == pytest.approx(share, abs=0.15), cause


def test_the_columns_of_the_ground_truth_and_its_example_are_true(tmp_path, monkeypatch, capsys):
    columns = [name.strip() for cell in rows_of("column | type") for name in cell.split(",")]
    assert columns == INCIDENTS_SCHEMA.names
    start = datetime(2026, 1, 5, tzinfo=timezone.utc)
    generate(GeneratorOptions(servers=60, hours=48, start=start), tmp_path / "training")
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(import pandas as pd\n.*?)```", TEXT, re.DOTALL)[1]
    *lines, shown = example.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert {"count", "min", "50%", "max"} <= set(capsys.readouterr().out.split())
    one, before = names["one"], eval(shown, names)
    assert isinstance(before, pd.DataFrame) and set(before["server_name"]) == {one["server_name"]}
    assert before["timestamp"].max() <= one["breach"]


# ------------------------------------------------------------------------------------------------------------ pictures


def test_every_picture_is_there_and_none_is_heavy():
    names = re.findall(r"\]\(images/(\w+\.png)\)", TEXT)
    assert sorted(names) == sorted([*(f"profile_{profile}.png" for profile in VALID_PROFILES), "incidents.png"])
    sizes = [(ROOT / "Docs" / "images" / name).stat().st_size for name in names]
    assert max(sizes) < 120_000 and sum(sizes) < 700_000
