"""Tests of alert_hysteresis.py: alerts open and close when they should, and never flap."""

from __future__ import annotations

import numpy as np
import pytest

from alert_hysteresis import AlertPolicy, AlertStates

POLICY = AlertPolicy(open_at=0.7, close_at=0.5)


def run(scores: list[float], policy: AlertPolicy = POLICY, every: int = 1) -> list[bool]:
    """Whether the alert is open after each score."""
    states = AlertStates.none_open((1,))
    opened = []
    for number, score in enumerate(scores):
        states = states.advance(np.array([score]), 1000 + number * every, policy)
        opened.append(bool(states.is_open[0]))
    return opened


def test_an_alert_opens_at_one_score_and_closes_below_another() -> None:
    assert run([0.69, 0.7, 0.5, 0.6, 0.49, 0.69]) == [False, True, True, True, False, False]


def test_a_score_that_sways_between_the_two_changes_nothing() -> None:
    sway = [0.55, 0.69] * 50
    assert run([0.8, *sway]) == [True] * 101
    assert run([0.4, *sway]) == [False] * 101


def test_a_score_that_jumps_over_both_limits_flaps_only_without_a_release_time() -> None:
    jumps = [0.9, 0.1] * 20
    assert run(jumps) == [True, False] * 20
    assert run(jumps, AlertPolicy(0.7, 0.5, release_minutes=10)) == [True] * 40


def test_release_and_confirmation_are_told_in_minutes_of_the_forecasts_time() -> None:
    patient = AlertPolicy(0.7, 0.5, confirm_minutes=10, release_minutes=15)
    assert run([0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1], patient) == [False, False, True, True, True, True, False]
    assert run([0.9, 0.9, 0.1, 0.1], patient, every=3) == [False, True, True, False]
    assert run([0.9] * 5, patient, every=0) == [False] * 5  # many forecasts of one step are one


def test_a_score_that_is_gone_closes_the_alert_at_once_and_interrupts_a_confirmation() -> None:
    assert run([0.9, np.nan], AlertPolicy(0.7, 0.5, release_minutes=60)) == [True, False]
    assert run([0.9, np.nan, 0.9, 0.9], AlertPolicy(0.7, 0.5, confirm_minutes=5)) == [False, False, False, True]


def test_states_follow_their_servers_when_the_fleet_changes() -> None:
    states = AlertStates.none_open((2, 1)).advance(np.array([[0.9], [0.1]]), 7, POLICY)
    moved = states.select(np.array([-1, 1, 0]))
    assert moved.opened[:, 0].tolist() == [-1, -1, 7] and moved.high_since[:, 0].tolist() == [-1, -1, 7]


def test_a_policy_that_would_flap_or_is_no_policy_is_refused() -> None:
    for wrong in ((0.5, 0.7), (float("nan"), 0.5), (float("inf"), 0.5)):
        with pytest.raises(ValueError, match="cannot close"):
            AlertPolicy(*wrong)
    with pytest.raises(ValueError, match="within a day"):
        AlertPolicy(0.7, 0.5, release_minutes=-5)


def test_a_policy_survives_json() -> None:
    policy = AlertPolicy(0.7, 0.5, 5, 30)
    assert AlertPolicy.from_dict(policy.as_dict()) == policy
    with pytest.raises(KeyError):
        AlertPolicy.from_dict({"open_at": 0.7})
