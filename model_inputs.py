"""What the network is shown and starts from, by name and in order; saved in every model's `config.json`.

A model whose names differ was made by another version of this program and is refused. How the numbers behind the names
are made is `tft_features.py`'s; this page is apart so that a model folder can be judged without importing torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from data_contract import DAY_STEPS, HORIZON_STEPS, METRIC_COLUMNS, PROFILE, STATE

MOST_STEPS = 7 * DAY_STEPS  # that the network may look back
MOST_POSITIONS = 2016

CALENDAR = ("time_of_day_sin", "time_of_day_cos", "day_of_week_sin", "day_of_week_cos", "is_weekend")
STATIC_CATEGORICALS = (PROFILE, "server_id")
ENCODER_CATEGORICALS = (STATE,)
CATEGORICALS = (*STATIC_CATEGORICALS, *ENCODER_CATEGORICALS)


@dataclass(frozen=True)
class Layout:
    """How the past is cut into what the network reads, and the future into what it writes.

    The past is read coarsely where it is long ago and finely where it is recent; the future is written in patches, all
    of whose steps the network says at once. Both save most of the network's time and nearly no information.

    Attributes
    ----------
    pieces : tuple of (int, int)
        How many pieces of how many 5-minute steps, the oldest first; the last one ends now.
    patch : int
        Steps of the horizon that are forecast from one position of the decoder.
    lag_days : tuple of int
        Which days' values at the time of each patch the decoder is shown.
    cycles : bool
        Whether it is shown the last period of each metric, too, see `tft_cycles.py`.
    """

    pieces: tuple[tuple[int, int], ...] = ((8, 24), (6, 12), (10, 3), (6, 1))
    patch: int = 6
    lag_days: tuple[int, ...] = (1, 7)
    cycles: bool = True

    @property
    def encoder_positions(self) -> int:
        """Length of the encoder."""
        return sum(count for count, _ in self.pieces)

    @property
    def decoder_positions(self) -> int:
        """Length of the decoder."""
        return HORIZON_STEPS // self.patch

    @property
    def encoder_steps(self) -> int:
        """Steps of 5 minutes that the encoder's positions cover."""
        return sum(count * steps for count, steps in self.pieces)

    @property
    def piece_steps(self) -> tuple[int, ...]:
        """Steps of each of the encoder's positions."""
        return tuple(steps for count, steps in self.pieces for _ in range(count))

    @property
    def is_coarse(self) -> bool:
        """Whether any piece holds more than one step."""
        return any(steps > 1 for _, steps in self.pieces)

    @property
    def observed_reals(self) -> tuple[str, ...]:
        """What only the past has: a piece's mean, how far it reaches above and below, how much of it is missing."""
        reach = ("_above", "_below") if self.is_coarse else ()
        return tuple(f"{column}{what}" for what in ("", *reach, "_missing") for column in METRIC_COLUMNS)

    @property
    def static_reals(self) -> tuple[str, ...]:
        """Variables of a window as a whole: each metric's scale, how much was observed, how sure its period is."""
        what = ("level", "spread", "observed", *(("cycle_strength",) if self.cycles else ()))
        return tuple(f"{column}_{each}" for each in what for column in METRIC_COLUMNS)

    @property
    def encoder_reals(self) -> tuple[str, ...]:
        """Variables of the encoder's positions."""
        return (*self.observed_reals, *(("piece_length",) if self.is_coarse else ()), *CALENDAR, "relative_step")

    @property
    def lag_reals(self) -> tuple[str, ...]:
        """What the decoder is shown of earlier days: for each a patch's mean, its peak above, how much is missing."""
        what = ("", "_peak") if self.patch > 1 else ("",)
        return tuple(
            name
            for days in self.lag_days
            for name in (
                *(f"{column}_{days}d_ago{each}" for each in what for column in METRIC_COLUMNS),
                f"{days}d_ago_missing",
            )
        )

    @property
    def cycle_reals(self) -> tuple[str, ...]:
        """What the decoder is shown of each metric's last period: a patch's mean, and its peak above."""
        what = ("", "_peak") if self.patch > 1 else ("",)
        return tuple(f"{column}_cycle{each}" for each in what for column in METRIC_COLUMNS) if self.cycles else ()

    @property
    def ahead_reals(self) -> tuple[str, ...]:
        """What the decoder alone is shown."""
        return (*self.lag_reals, *self.cycle_reals)

    @property
    def decoder_reals(self) -> tuple[str, ...]:
        """Variables of the decoder's positions."""
        return (*CALENDAR, "relative_step", *self.ahead_reals)

    @property
    def reals(self) -> tuple[str, ...]:
        """All real variables, in the order of the network's input."""
        return (*self.static_reals, *self.encoder_reals, *self.ahead_reals)

    @property
    def anchors(self) -> tuple[str, ...]:
        """Where a forecast may start from.

        The level of the last half hour, the last value, the same time of the day before, the day's median, and the last
        period again.
        """
        return ("recent", "last", "day_ago", "median", *(("cycle",) if self.cycles else ()))

    def names(self) -> dict[str, list[str]]:
        """Names as `config.json` has them under `features`."""
        return {"reals": list(self.reals), "categoricals": list(CATEGORICALS), "anchors": list(self.anchors)}

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "pieces": [list(piece) for piece in self.pieces],
            "patch": self.patch,
            "lag_days": list(self.lag_days),
            "cycles": self.cycles,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Layout:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else, or what no network could have."""
        if not isinstance(content["cycles"], bool):
            raise ValueError(f"cycles is {content['cycles']!r}, neither true nor false")  # noqa: TRY004  # as of the rest
        layout = cls(
            pieces=tuple((int(count), int(steps)) for count, steps in content["pieces"]),
            patch=int(content["patch"]),
            lag_days=tuple(int(days) for days in content["lag_days"]),
            cycles=content["cycles"],
        )
        layout.check()
        return layout

    @classmethod
    def parse(cls, pieces: str, patch: int) -> Layout:
        """Layout of the settings' words, such as `8x24,6x12,10x3,6x1`; ValueError if it says none."""
        if not re.fullmatch(r"\d{1,4}x\d{1,4}(,\d{1,4}x\d{1,4}){0,9}", pieces):
            raise ValueError(f"{pieces!r} is no list of count x steps, such as 8x24,6x12,10x3,6x1")
        counts = (piece.split("x") for piece in pieces.split(","))
        layout = cls(pieces=tuple((int(count), int(steps)) for count, steps in counts), patch=patch)
        layout.check()
        return layout

    def check(self) -> None:
        """ValueError if the layout has no sense or no bounds."""
        if not self.pieces or not all(count >= 1 and 1 <= steps <= DAY_STEPS for count, steps in self.pieces):
            raise ValueError("pieces must be at least one, each of 1 to 288 steps")
        if self.encoder_positions > MOST_POSITIONS or self.encoder_steps > MOST_STEPS:
            raise ValueError(f"pieces are more than {MOST_POSITIONS}, or reach back more than {MOST_STEPS} steps")
        if self.patch < 1 or HORIZON_STEPS % self.patch:
            raise ValueError(f"patch is {self.patch}, which does not divide {HORIZON_STEPS}")
        days = self.lag_days
        if not days or days[0] != 1 or list(days) != sorted(set(days)) or days[-1] > MOST_STEPS // DAY_STEPS:
            raise ValueError("lag_days must rise from 1 to at most 7")


def _self_check() -> None:
    layout = Layout()
    layout.check()
    assert len(set(layout.reals)) == len(layout.reals)
    assert Layout.parse("8x24,6x12,10x3,6x1", 6) == layout == Layout.from_dict(layout.as_dict())
    assert layout.encoder_positions == 30 and layout.decoder_positions == 16
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
