"""What the network is shown and starts from, by name and in order; saved in every model's `config.json`.

A model whose names differ was made by another version of this program and is refused. How the numbers behind the names
are made is `tft_features.py`'s; this page is apart so that a model folder can be judged without importing torch.
"""

from __future__ import annotations

from data_contract import METRIC_COLUMNS, PROFILE, STATE

CALENDAR = ("time_of_day_sin", "time_of_day_cos", "day_of_week_sin", "day_of_week_cos", "is_weekend")
STATIC_REALS = tuple(f"{column}_{what}" for what in ("level", "spread", "observed") for column in METRIC_COLUMNS)
OBSERVED_REALS = (*METRIC_COLUMNS, *(f"{column}_missing" for column in METRIC_COLUMNS))
KNOWN_REALS = (
    *CALENDAR,
    "relative_step",
    *(f"{column}_day_ago" for column in METRIC_COLUMNS),
    "day_ago_missing",
)
ENCODER_REALS = (*OBSERVED_REALS, *KNOWN_REALS)
DECODER_REALS = KNOWN_REALS
REALS = (*STATIC_REALS, *ENCODER_REALS)
STATIC_CATEGORICALS = (PROFILE, "server_id")
ENCODER_CATEGORICALS = (STATE,)
CATEGORICALS = (*STATIC_CATEGORICALS, *ENCODER_CATEGORICALS)

# Where a forecast may start from: the level of the last half hour, the same time of the day before, the day's median.
ANCHORS = ("recent", "day_ago", "median")


def input_names() -> dict[str, list[str]]:
    """Names as `config.json` has them under `features`."""
    return {"reals": list(REALS), "categoricals": list(CATEGORICALS), "anchors": list(ANCHORS)}


def _self_check() -> None:
    assert len(set(REALS)) == len(REALS) and set(DECODER_REALS) < set(ENCODER_REALS)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
