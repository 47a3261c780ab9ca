"""What a person sees of a training: what is learned from, how long it will take, and a line for every epoch.

Knows nothing of files; those of a run are `training_runs.py`'s.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from training_loop import EpochRecord
from training_loop import Progress as Standing
from training_options import duration_text


class TrainingReport:
    """Says how a training goes; silent without a console."""

    def __init__(self, console: Console | None, epochs: int, batches: int) -> None:
        self._console, self._epochs, self._batches = console, epochs, batches
        self._bar: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def reading(self, done: int, total: int) -> None:
        """Show how much of the data is read."""
        self._show("reading", done, total)

    def calibrating(self, done: int, total: int) -> None:
        """Show how much of the validation period has been forecast."""
        self._show("calibrating risk", done, total)

    def begin_epoch(self, standing: Standing) -> None:
        """Show the epoch's bar."""
        self.close()
        self.batch_done(standing)

    def batch_done(self, standing: Standing) -> None:
        """Move the epoch's bar."""
        self._show(f"epoch {standing.epoch + 1}/{self._epochs}", standing.batch, self._batches)

    def _show(self, what: str, done: int, total: int) -> None:
        """Move the bar, where there is a terminal to show it on."""
        if self._console is None or not self._console.is_terminal:
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(what)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def end_epoch(self, record: EpochRecord, standing: Standing) -> None:
        """Say how the epoch went, and how long the rest will take."""
        self.close()
        records = standing.records
        mean = sum(each.seconds for each in records) / len(records)
        is_best = record.val_loss <= min(each.val_loss for each in records)
        self.say(
            f"epoch {record.epoch}/{self._epochs}  train_loss {record.train_loss:.4f}  "
            f"val_loss {record.val_loss:.4f}{' (best)' if is_best else ''}  lr {record.learning_rate:.1e}  "
            f"{record.samples_per_second:,.0f} windows/s  {record.seconds:.0f} s, "
            + (
                f"about {duration_text(mean * (self._epochs - record.epoch))} remaining"
                if record.epoch < self._epochs
                else "nothing remaining"
            )
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
