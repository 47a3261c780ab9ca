"""What can be chosen for one training: how long it may take, what it may see, on which hardware, in how many processes.

What is worth keeping from one training to the next is a setting (`config.py`). Importing this loads no torch, so that
`--help` stays quick.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from common_utils import iso_z
from data_contract import TrainingError

# Epochs: at least 5 are viable, 10 usual, 20 and more for production. A quick training has smaller ones, so that its
# learning-rate schedule runs to its end within two minutes on two cores; windows that the settings name win.
TRAIN_PRESETS: dict[str, dict[str, int]] = {
    "quick": {"epochs": 5, "windows_per_epoch": 5_120, "validation_windows": 1_024},
    "standard": {"epochs": 10},
    "production": {"epochs": 20},
}

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["auto", "32", "bf16", "16"]
Strategy = Literal["auto", "ddp"]

_UNITS = {"h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Hardware:
    """What a training runs on.

    Attributes
    ----------
    accelerator : str
        `auto` takes a GPU where there is one.
    devices : int, optional
        Processes on this machine, one per device; None is one, or what `torchrun` says.
    strategy : str
        Several processes always share every batch by DDP; `ddp` refuses to be one process alone.
    precision : str
        `auto` is mixed precision on a GPU, and 32 bits elsewhere, where less would be slower.
    """

    accelerator: Accelerator = "auto"
    devices: int | None = None
    strategy: Strategy = "auto"
    precision: Precision = "auto"


MOST_HELD_OUT = 0.5  # share of the servers


@dataclass(frozen=True)
class Restrictions:
    """What of the data a training may not see, so that its model can be judged there.

    Attributes
    ----------
    until : datetime, optional
        Rows from this time on are not seen; nor are earlier rows of the 5 minutes that it falls in.
    hold_out : float
        Share of the servers that are not seen.
    """

    until: datetime | None = None
    hold_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= MOST_HELD_OUT:
            raise TrainingError(
                f"A share of {self.hold_out} of the servers cannot be held out.",
                why="A model learns from the others, and it needs at least half of a fleet to know its roles.",
                fix=f"Give a share from 0 to {MOST_HELD_OUT}; 0.2 is usual.",
                document="Docs/TRAINING.md",
            )
        if self.until is not None:
            object.__setattr__(self, "until", _as_utc(self.until))

    def __bool__(self) -> bool:
        return self.until is not None or self.hold_out > 0

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"until": None if self.until is None else iso_z(self.until), "hold_out": self.hold_out}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Restrictions:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else, TrainingError on a wrong share."""
        until = content["until"]
        return cls(None if until is None else _moment(str(until)), float(content["hold_out"]))

    def __str__(self) -> str:
        parts = [] if self.until is None else [f"--until {iso_z(self.until)}"]
        parts += [f"--hold-out-servers {self.hold_out:g}"] if self.hold_out > 0 else []
        return " ".join(parts) or "no restrictions"


def _moment(text: str) -> datetime:
    return _as_utc(datetime.fromisoformat(text.removesuffix("Z")))


def _as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def held_out_servers(profile_of: Mapping[str, str], share: float) -> frozenset[str]:
    """Choose the servers that a model shall not see: by the hash of their names, and from the profiles alike.

    The same fleet gives the same choice on any machine. Every profile gives its share (largest remainders first), and
    keeps at least one server, from which its role can be learned. Where that allows it, at least one is held out.

    Parameters
    ----------
    profile_of : mapping
        Profile of each server by its name.
    share : float
        Of the servers, from 0 to 0.5.
    """
    by_profile: dict[str, list[str]] = {}
    for name, profile in profile_of.items():
        by_profile.setdefault(profile, []).append(name)
    if share <= 0:
        return frozenset()
    wanted = max(1, round(share * len(profile_of)))
    quota = {profile: share * len(names) for profile, names in by_profile.items()}
    count = {profile: min(int(quota[profile]), len(names) - 1) for profile, names in by_profile.items()}
    rest = sorted(by_profile, key=lambda profile: (-(quota[profile] - int(quota[profile])), _hash(profile)))
    for profile in rest:
        if sum(count.values()) < wanted and count[profile] + 1 < len(by_profile[profile]):
            count[profile] += 1
    return frozenset(
        name for profile, names in by_profile.items() for name in sorted(names, key=_hash)[: count[profile]]
    )


def _hash(name: str) -> str:
    """SHA-256 of a name, and not of the name alone: server ids are made of that, and share nothing with the choice."""
    return hashlib.sha256(f"held out: {name}".encode()).hexdigest()


def spare_busy_cores() -> None:
    """Let OpenMP's threads wait asleep rather than spinning, once a wait is long; before torch is imported.

    On a machine that does other work, too, a thread that spins keeps the core from the very thread that it waits for:
    beside a busy process on 2 cores, training was more than ten times slower. 1,000 turns cost nothing on idle ones.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def is_launched() -> bool:
    """Whether `torchrun` (or we, in its way) started this process as one of several."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_restarted() -> bool:
    """Whether `torchrun --max-restarts` has started this process again after one of its group had ended."""
    return is_launched() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def launch_name() -> str:
    """What `torchrun` calls this launch of its, restarts included; empty without, and where nobody gave it a name.

    On one machine torchrun makes up a name that is used once; over several, `--rdzv-id` is one.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none") if is_launched() else "none"
    return "" if name == "none" else name


def seconds_of(text: str) -> float:
    """Seconds of a time such as `90s`, `10m`, `2h` or `1h30m`; a bare number is minutes.

    Raises
    ------
    ValueError
        If it is no such time, or none at all.

    Examples
    --------
    >>> seconds_of("1h30m"), seconds_of("0.5")
    (5400.0, 30.0)
    """
    text = "".join(text.lower().split())
    number = r"\d{1,7}(?:\.\d{1,6})?"
    if re.fullmatch(number, text):
        text += "m"
    if re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text):
        total = sum(float(part) * _UNITS[unit] for part, unit in re.findall(rf"({number})([hms])", text))
        if total > 0:
            return total
    raise ValueError(f"{text!r} is no time such as 90s, 10m, 2h or 1h30m")


def duration_text(seconds: float) -> str:
    """A time as people say it.

    Examples
    --------
    >>> duration_text(44), duration_text(100), duration_text(4800)
    ('44 s', '2 min', '1 h 20 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _self_check() -> None:
    fleet = {f"ppweb{number:03d}": "web_api" for number in range(10)} | {"ppdb001": "database"}
    chosen = held_out_servers(fleet, 0.2)
    assert len(chosen) == 2 and chosen == held_out_servers(dict(sorted(fleet.items(), reverse=True)), 0.2)
    assert Restrictions.from_dict(Restrictions(hold_out=0.2).as_dict()) == Restrictions(hold_out=0.2)
    assert [seconds_of(text) for text in ("90s", "10m", "2h", "1h 30m", "2")] == [90, 600, 7200, 5400, 120]
    for wrong in ("", "0", "m", "10x", "-5m", "30m1h", "nan"):
        try:
            seconds_of(wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
