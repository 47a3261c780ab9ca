"""Run as a program: the product's training, which gets a real signal when given batches are drawn.

    python tests/stopped_training.py training:1:3:SIGTERM validation:1:0:SIGINT train --data FILE --epochs 2

`training:E:B:S` sends signal S when batch B of epoch E (both from 0) is drawn; `validation:N:B:S` when validation batch
B is drawn for the N-th time after the first, which the estimate of the time takes. With `:R` behind it, only in process
R of several, before any restart. What follows `train` are its options.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from main import run_command
from tft_features import Windows
from training_windows import WindowBatches

_moments: dict[tuple[str, int, int], signal.Signals] = {}
_drawn: Counter[int] = Counter()
_iterate = WindowBatches.__iter__


def _iterate_with_signals(self: WindowBatches) -> Iterator[Windows]:
    number = self.first_batch
    for windows in _iterate(self):
        if self.windows > 64:  # the tests validate on 64 windows
            moment = ("training", self.epoch, number)
        else:
            moment = ("validation", _drawn[number], number)
            _drawn[number] += 1
        if moment in _moments:
            os.kill(os.getpid(), _moments.pop(moment))
        yield windows
        number += 1


if __name__ == "__main__":
    end = sys.argv.index("train")
    for text in sys.argv[1:end]:
        kind, time, batch, name, *rank = text.split(":")
        here = not rank or rank[0] == os.environ.get("RANK", "0")
        if here and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            _moments[kind, int(time), int(batch)] = signal.Signals[name]
    for pickled in ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list"):
        setattr(torch.distributed, pickled, None)  # a process that took a pickle would run what is in it
    WindowBatches.__iter__ = _iterate_with_signals  # type: ignore[method-assign]
    sys.argv = ["tft_trainer.py", *sys.argv[end + 1 :]]
    run_command("train")
