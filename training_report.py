"""What a person sees of a training: what is learned from, how long it will take, and a line for every epoch.

Knows nothing of files; those of a run are `training_runs.py`'s.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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

    def begin_epoch(self, standing: Standing) -> None:
        """Show a bar, where there is a terminal to show it on."""
        self.close()
        if self._console is None or not self._console.is_terminal:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._bar.add_task(f"epoch {standing.epoch + 1}/{self._epochs}", total=self._batches, completed=standing.batch)
        self._bar.start()

    def batch_done(self, standing: Standing) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=standing.batch)

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
