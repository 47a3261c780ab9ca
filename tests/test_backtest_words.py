"""What a backtest's figures mean in words: wins, losses, coverage, unknown servers, and what is not known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from made_up_backtest import TITLES, make_result

from backtest_words import (
    Scores,
    best_methods,
    distance,
    duels,
    findings,
    headline,
    in_words,
    is_better,
    listed,
    metrics_of,
    number,
    scored_methods,
)
from data_contract import METRIC_COLUMNS


@pytest.fixture
def result() -> dict[str, Any]:
    return make_result()


def change(result: dict[str, Any], what: dict[str, Any], *, method: str, **where: str) -> None:
    """Change the scores of a method, of a metric or a group."""
    for row in result["scores"]:
        if row["method"] == method and all(row[key] == value for key, value in where.items()):
            row.update(what)


def told(result: dict[str, Any], part: str) -> list[tuple[str, str]]:
    return [(each.level, each.text) for each in findings(result) if part in each.text]


def test_the_headline_counts_where_the_model_is_first_and_names_where_it_is_not(result):
    verdict = headline(result)
    assert verdict.level == "bad"
    assert verdict.text == (
        "Of 6 methods, the TFT has the lowest CRPS on 3 of 4 metrics (not on Memory) "
        "and the lowest MASE on 3 of 4 metrics (not on Memory)."
    )


def test_a_model_that_is_first_everywhere_is_said_to_be(result):
    change(result, {"crps": 0.01, "mase": 0.01}, method="tft")
    verdict = headline(result)
    assert verdict.level == "good" and verdict.text.count("on all 4 metrics") == 2
    assert "It loses nowhere against" in next(findings(result)).text


def test_a_model_that_is_first_nowhere_is_said_to_be(result):
    change(result, {"crps": 9.0, "mase": 9.0}, method="tft")
    verdict = headline(result)
    assert verdict.level == "bad" and verdict.text.count("on no metric") == 2
    assert len(told(result, "It loses against")) == len(TITLES) - 1


def test_each_loss_is_told_with_both_scores_and_each_win_is_counted(result):
    by_title = {duel.title: duel for duel in duels(result)}
    assert list(by_title) == [title for name, title in TITLES.items() if name != "tft"]
    mlp = by_title["Plain MLP"]
    assert mlp.lost == ("Memory CRPS (0.360 against 0.307)", "Memory MASE (1.440 against 1.229)")
    assert len(mlp.won) == 6 and not mlp.equal
    assert len(by_title["Last value"].won) == 8 and not by_title["Last value"].lost
    assert by_title["Last value"].crps_change == pytest.approx(0.30 / 0.52 - 1)
    assert told(result, "It loses against Plain MLP") == [
        (
            "bad",
            "It loses against Plain MLP in Memory CRPS (0.360 against 0.307) and Memory MASE (1.440 against 1.229).",
        )
    ]


def test_equal_scores_are_neither_won_nor_lost(result):
    change(result, {"crps": 0.3, "mase": 1.2}, method="ridge", metric="cpu_pct", group="all")
    ridge = next(duel for duel in duels(result) if duel.title == TITLES["ridge"])
    assert ridge.equal == ("CPU CRPS", "CPU MASE") and len(ridge.won) == 6 and not ridge.lost
    scores = Scores(result)
    assert best_methods(scores, list(TITLES), "cpu_pct", "crps") == {"tft", "ridge"}


def test_coverage_is_better_the_nearer_to_what_is_wanted():
    assert is_better("coverage_p10_p90", 0.82, 0.7) and is_better("coverage_p10_p90", 0.75, 0.99)
    assert distance("crps", 0.5) == 0.5 and not is_better("crps", None, 0.1) and not is_better("crps", 0.1, None)


@pytest.mark.parametrize(("share", "level"), [(0.771, "good"), (0.829, "good"), (0.76, "bad"), (0.84, "bad")])
def test_coverage_is_held_within_three_points(result, share, level):
    change(result, {"coverage_p10_p90": share}, method="tft", metric="cpu_pct", group="all")
    assert [each for each, _ in told(result, "p10 to p90")] == [level]


@pytest.mark.parametrize(("factor", "level"), [(1.05, "good"), (1.2, "bad")])
def test_unknown_servers_may_be_a_tenth_worse(result, factor, level):
    change(result, {"crps": 0.3 * factor}, method="tft", metric="all", group="server", value="held_out")
    start = f"Servers never seen in training: CRPS is {factor:.2f} × that of known ones (at most 1.1 × is wanted"
    assert told(result, "never seen in training: CRPS") == [(level, f"{start}; other methods 1.05 ×).")]
    result["methods"] = [row for row in result["methods"] if row["name"] == "tft"]
    assert told(result, "never seen in training: CRPS") == [(level, f"{start}).")]


def test_a_profile_that_does_not_help_is_told(result):
    change(result, {"crps": 0.5}, method="tft", metric="all", group="profile_known", value="known")
    levels = dict(told(result, "Knowing the profile"))
    assert set(levels) == {"bad", "good"} and "harms" in levels["bad"]
    for value in ("known", "generic"):
        change(result, {"crps": 0.3, "mase": 1.0}, method="tft", metric="all", group="profile_known", value=value)
    assert [level for level, text in told(result, "makes no difference")] == ["bad", "bad"]


def test_crossings_left_out_methods_and_unanswered_labels_are_told(result):
    result["crossings"]["tft"] = 7
    result["methods"][2]["unanswered"] = 1200
    assert told(result, "cross at 7 steps")[0][0] == "bad"
    assert told(result, "AutoETS was left out: statsforecast is not installed.")
    assert told(result, f"{TITLES['seasonal_naive']} had no answer to 1,200 labels")
    result["stopped"] = True
    assert told(result, "stopped before it was finished")


def test_alerts_are_told_with_the_rules_that_are_better(result):
    assert told(result, "Of its alerts") == [
        (
            "good",
            (
                "Of its alerts 86 % come true; they find 90 % of what can be foreseen, 75 minutes before (median), "
                "with 0.30 false alarms per server and week."
            ),
        )
    ]
    result["alerts"]["methods"][2]["recall"] = 0.95
    assert told(result, "Its alerts lose") == [
        ("bad", "Its alerts lose against Holt-Winters in recall (95 % against 90 %).")
    ]
    result["alerts"]["methods"][0]["precision"] = None
    assert told(result, "nothing can be said") and not told(result, "Its alerts lose")
    result["alerts"] = None
    assert not told(result, "alerts")


def test_a_metric_that_was_never_reported_is_not_talked_of(result):
    for row in result["scores"]:
        if row["metric"] == "latency_ms":
            row.update(crps=None, mase=None, mae=None, coverage_p10_p90=None, labels=0)
    assert metrics_of(Scores(result)) == list(METRIC_COLUMNS[:3])
    assert "3 metrics" in headline(result).text
    assert "Latency" not in headline(result).text + "".join(each.text for each in findings(result))


def test_results_without_parts_are_taken_as_not_known(result):
    assert headline({}).text == "The model was not scored." and not list(findings({}))
    assert "nothing to compare" in headline({**result, "methods": result["methods"][:1]}).text
    assert "no labels" in headline({**result, "scores": []}).text
    broken = {"methods": [None, 3], "scores": "no", "what": None, "crossings": []}
    assert headline(broken).level == "bad" and not list(findings(broken))
    assert list(scored_methods(result)) == list(TITLES)


def test_numbers_are_shown_with_their_units_and_what_is_none_is_not_invented():
    assert in_words("mae", 12.345, "disk_io_mb_s") == "12.3 MB/s"
    assert in_words("coverage_p10_p90", 0.8) == "80.0 %" and in_words("crps", None) == "–"
    assert in_words("mase", 123456.0) == "1.23e+05"
    assert [number(each) for each in (1, 2.5, True, None, "3", math.nan, math.inf)] == [1.0, 2.5, *[None] * 5]
    assert [listed(each) for each in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
