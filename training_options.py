"""What can be chosen for one training: how long it may take, on which hardware, in how many processes.

What is worth keeping from one training to the next is a setting (`config.py`). Importing this loads no torch, so that
`--help` stays quick.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

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
