"""Do `data_contract.py` and `Docs/DATA_CONTRACT.md` say the same, and do errors say all four parts?"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import data_contract as contract

ROOT = Path(__file__).resolve().parent.parent
LAW = (ROOT / contract.CONTRACT_DOCUMENT).read_text(encoding="utf-8")


def table_under(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its head; code marks removed."""
    section = re.split(rf"^#+ {re.escape(heading)}\s*$", LAW, flags=re.MULTILINE)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines, heading
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[0].splitlines()]
    return [[cell.replace("`", "") for cell in row] for row in rows[2:]]


# ------------------------------------------------------------------------------------------- the law and the programs


def test_the_versions_are_those_of_the_law():
    assert f"# Data contract {contract.CONTRACT_VERSION}" in LAW
    assert dict(table_under("Versions")) == {
        "contract": contract.CONTRACT_VERSION,
        "model generation": contract.MODEL_VERSION,
    }
    assert (contract.CONTRACT_VERSION, contract.MODEL_VERSION) == ("1.0.0", "3.0.0")


def test_the_columns_are_those_of_the_law():
    rows = table_under("Columns")
    assert tuple(row[0] for row in rows) == contract.REQUIRED_COLUMNS
    by_name = {row[0]: row for row in rows}
    assert f"1 to {contract.MAX_NAME_LENGTH} characters" in by_name["server_name"][3]
    for metric in contract.METRICS:
        _, kind, unit, valid, missing = by_name[metric.column]
        bounds = f"{metric.lower:g} and above" if metric.upper is None else f"{metric.lower:g} to {metric.upper:g}"
        assert (kind, unit, valid, missing) == ("float", metric.unit, bounds, "yes")
    for column in set(contract.REQUIRED_COLUMNS) - set(contract.METRIC_COLUMNS):
        assert by_name[column][4] == "no"


def test_the_states_are_those_of_the_law():
    assert tuple(row[0] for row in table_under("States")) == contract.VALID_STATES
    assert len(contract.VALID_STATES) == 8


def test_the_rules_that_derive_states_are_those_of_the_law():
    def written(limits: dict[str, float]) -> str:
        return ", ".join(f"{metric} {value:g}" for metric, value in limits.items())

    rules = [
        [str(place), rule.state, written(rule.at_least), written(rule.below)]
        for place, rule in enumerate(contract.STATE_RULES, start=1)
    ]
    assert table_under("Rules for sources that report no state") == rules
    assert f"What fits no rule is `{contract.DEFAULT_STATE}`" in LAW.replace("\n", " ")


def test_the_profiles_names_and_fleet_are_those_of_the_law():
    rows = table_under("Profiles")
    assert tuple(row[0] for row in rows) == contract.VALID_PROFILES and len(rows) == 7
    for profile, pattern, example, count in rows:
        prefix, digits = contract.NAME_FORMATS[profile]
        assert pattern == prefix + "#" * digits
        assert example == contract.format_name(profile, 1)
        assert int(count) == contract.DEFAULT_FLEET[profile]
    assert sum(contract.DEFAULT_FLEET.values()) == 90


def test_the_grid_and_the_horizons_are_those_of_the_law():
    assert {name: int(steps) for name, steps in table_under("Time grid")} == contract.HORIZONS
    assert f"**{contract.STEP_MINUTES} minutes**" in LAW and f"**{contract.HORIZON_STEPS} steps**" in LAW
    assert contract.HORIZON_STEPS * contract.STEP_MINUTES == 8 * 60 == contract.HORIZONS["8hr"] * 5
    quantiles = ", ".join(f"`{name}` = {value}" for name, value in contract.SERVED_QUANTILES.items())
    assert f"Served quantiles: {quantiles}." in LAW


def test_the_model_files_are_those_of_the_law():
    assert all(f"`{name}`" in LAW for name in contract.MODEL_FILES) and len(contract.MODEL_FILES) == 4


def test_every_document_that_an_error_points_to_is_named_by_its_path():
    documents = {each.document for each in error_classes()}
    assert all(re.fullmatch(r"(Docs/)?[A-Z_]+\.md", document) for document in documents)


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("profile", contract.VALID_PROFILES)
@pytest.mark.parametrize("number", [1, 9, 99, 10_000])
def test_every_formatted_name_tells_its_profile(profile, number):
    assert contract.profile_for_name(contract.format_name(profile, number)) == profile


@pytest.mark.parametrize(
    "name",
    ["", "ppweb", "ppweb1", "ppweb01", "ppml001", "PPWEB001", "xppweb001", "ppweb001x", "ppweb001\n", "ppvra00a01"],
)
def test_names_of_no_format_are_generic(name):
    assert contract.profile_for_name(name) == "generic"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("mail.example.org", None),
        ("x" * contract.MAX_NAME_LENGTH, None),
        ("x" * (contract.MAX_NAME_LENGTH + 1), "is longer than 253 characters"),
        ("", "is empty"),
        (" \t", "is empty"),
        ("web\x07", "holds control characters"),
        ("web\ud800", "holds control characters"),
    ],
)
def test_a_name_that_no_server_may_have_is_told_why(name, fault):
    assert contract.name_fault(name) == fault


def test_offenders_are_shortened():
    shown = contract.shorten([f"ppweb{number:03d}" for number in range(1000)])
    assert "ppweb000" in shown and shown.endswith("...]") and len(shown) < 200
    assert len(contract.shorten("x" * 10_000)) < 100


# -------------------------------------------------------------------------------------------------------------- errors


def error_classes() -> list[type[contract.ProductError]]:
    return [
        each
        for _, each in inspect.getmembers(contract, inspect.isclass)
        if issubclass(each, contract.ProductError) and each is not contract.ProductError
    ]


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_why_fix_and_document(kind):
    error = kind("It broke.", why="It matters.", fix="Mend it.")
    assert str(error).splitlines() == [
        "It broke.",
        "  Why it matters: It matters.",
        "  To fix it: Mend it.",
        f"  More information: {kind.document}",
    ]
    assert error.as_dict() == {"what": "It broke.", "why": "It matters.", "fix": "Mend it.", "document": kind.document}
    assert len(kind.__mro__) > len(contract.ProductError.__mro__) + 1  # each is a built-in error, too


def test_many_findings_are_one_error_of_bounded_length():
    error = contract.ContractError.from_findings("a.parquet", [f"finding {number}" for number in range(100)])
    assert "100 place(s)" in str(error) and "finding 19" in str(error) and "finding 20" not in str(error)
    assert "and 80 more" in str(error)


def test_the_contract_knows_nothing_of_pandas_and_torch():
    code = "import sys, data_contract; print(sorted({'pandas', 'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------------------- self-checks


@pytest.mark.parametrize(
    "module",
    [
        *("data_contract", "config", "common_utils", "server_encoder", "contract_parquet", "data_validator"),
        *("contract_judge", "fleet_simulation", "fleet_tables"),
    ],
)
def test_self_checks_of_the_utility_modules_pass(module):
    done = subprocess.run(
        [sys.executable, f"{module}.py"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "✅ All tests passed"
