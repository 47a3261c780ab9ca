"""How an epoch goes: the loss, what Lightning calls, what is reported, and how a training is stopped.

The training as a whole, from data to model folder, is `tft_trainer.py`'s.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import Tensor

from common_utils import write_json
from data_contract import TrainingError
from tft_features import FeatureSpec, Windows
from tft_model import NetworkConfig, build_network, forecast_scaled
from training_windows import WindowBatches

_SHORTEST_SCHEDULE = 20  # steps; in fewer the schedule's rise would have no length, and a training just ends within it


@dataclass(frozen=True)
class EpochRecord:
    """What is reported and kept of an epoch."""

    epoch: int
    train_loss: float
    val_loss: float
    learning_rate: float
    samples_per_second: float
    seconds: float


def quantile_loss(forecast: Tensor, labels: Tensor, quantiles: Tensor) -> Tensor:
    """Pinball loss, averaged over the labels that are known.

    Parameters
    ----------
    forecast : Tensor, (batch, horizon, n_metrics, n_quantiles)
    labels : Tensor, (batch, horizon, n_metrics)
        NaN where unknown: such steps have no part in the loss.
    quantiles : Tensor, (n_quantiles,)

    Source: Koenker and Bassett, Regression Quantiles, Econometrica 46 (1978).
    """
    known = torch.isfinite(labels)
    error = torch.nan_to_num(labels)[..., None] - forecast
    loss = torch.maximum(quantiles * error, (quantiles - 1) * error).mean(dim=-1)
    return (loss * known).sum() / known.sum().clamp_min(1)


class ForecastTask(pl.LightningModule):
    """What Lightning needs to train the network."""

    def __init__(
        self, spec: FeatureSpec, network: NetworkConfig, *, learning_rate: float, total_steps: int, seed: int
    ) -> None:
        super().__init__()
        self._seed = seed
        self.network = build_network(spec, network)
        self._learning_rate, self._total_steps = learning_rate, total_steps
        self._quantiles = torch.tensor(spec.quantiles)

    def _loss(self, windows: Windows) -> Tensor:
        forecast = forecast_scaled(self.network, windows)
        return quantile_loss(forecast.float(), windows.labels, self._quantiles.to(forecast.device))

    def transfer_batch_to_device(self, batch: Windows, device: torch.device, dataloader_idx: int) -> Windows:
        """Move a batch, a frozen dataclass, to the training device."""
        del dataloader_idx
        return batch.to(device)

    def training_step(self, batch: Windows, batch_idx: int) -> Tensor:
        """Loss of a batch; stops the training when it is not finite."""
        # Dropout depends on the step alone, so that a resumed run goes on exactly as an uninterrupted one would have.
        torch.manual_seed(self._seed + self.global_step)
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss became {float(loss.detach())} in epoch {self.current_epoch + 1}, batch {batch_idx}.",
                why="Weights that are not finite forecast nothing; the last good checkpoint was kept.",
                fix="Train anew with a smaller TFT_LEARNING_RATE.",
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.labels))
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Windows, batch_idx: int) -> None:
        """Loss of a batch of the validation period."""
        del batch_idx
        self.log("val_loss", self._loss(batch), prog_bar=True, batch_size=len(batch.labels))

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle schedule: a tenth of the steps up, then down to almost nothing."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self._learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self._learning_rate, total_steps=max(self._total_steps, _SHORTEST_SCHEDULE), pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EpochReport(Callback):
    """Says after every epoch how it went and how long the rest will take, and keeps the record in the run folder."""

    def __init__(self, file: Path, epochs: int, batches: WindowBatches, console: Console | None) -> None:
        self._file, self._epochs, self._batches, self._console = file, epochs, batches, console
        self.records: list[EpochRecord] = []
        if self._file.is_file():
            self.records = [EpochRecord(**record) for record in json.loads(self._file.read_text(encoding="utf-8"))]
        self._started = 0.0
        self._trained = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; tell the sampler which epoch it is."""
        del pl_module
        self._started = time.monotonic()
        self._batches.epoch = trainer.current_epoch
        self.records = [record for record in self.records if record.epoch <= trainer.current_epoch]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the training part."""
        del trainer, pl_module
        self._trained = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch; validation is done by then."""
        del pl_module
        metrics = trainer.callback_metrics
        seconds = time.monotonic() - self._started
        record = EpochRecord(
            epoch=trainer.current_epoch + 1,
            train_loss=float(metrics["train_loss"]),
            val_loss=float(metrics["val_loss"]),
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            samples_per_second=self._batches.windows / max(self._trained - self._started, 1e-9),
            seconds=seconds,
        )
        self.records.append(record)
        write_json(self._file, [asdict(record) for record in self.records])
        if self._console is not None:
            mean = sum(record.seconds for record in self.records) / len(self.records)
            left = mean * (self._epochs - record.epoch)
            best = record.val_loss <= min(record.val_loss for record in self.records)
            rest = timedelta(seconds=round(left))
            self._console.print(
                f"epoch {record.epoch}/{self._epochs}  train_loss {record.train_loss:.4f}  "
                f"val_loss {record.val_loss:.4f}{' (best)' if best else ''}  lr {record.learning_rate:.1e}  "
                f"{record.samples_per_second:,.0f} windows/s  {seconds:.0f} s, about {rest} remaining",
                highlight=False,
                soft_wrap=True,
            )


class StopRequest(Callback):
    """Ends a training cleanly: at once on Ctrl-C or SIGTERM, with validation and saving when its time is up."""

    def __init__(self, max_minutes: float | None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + max_minutes * 60
        self.signal: signal.Signals | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Stop if asked to, or if the time is up."""
        if self.signal is not None:
            raise TrainingStopped
        if self._deadline is not None and time.monotonic() > self._deadline:
            trainer.should_stop = True

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Stop if asked to."""
        if self.signal is not None:
            raise TrainingStopped

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests to stop after the batch; a second one ends the program as usual."""
        if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def receive(number: int, frame: Any) -> None:
            del frame
            self.signal = signal.Signals(number)
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in before:
            signal.signal(number, receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class TrainingStopped(Exception):  # noqa: N818  # no error: the user asked for it
    """Leaves Lightning's loops from within a callback."""
