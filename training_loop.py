"""How a training goes, batch by batch: the loss, the steps, validation, when it ends, and how it goes on where it was.

The loop is our own, on Lightning Fabric: Lightning's Trainer cannot go on in the middle of an epoch to the bit. What a
checkpoint must hold is `Training.state`; where it lies is `training_runs.py`'s business.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from data_contract import METRIC_COLUMNS, ProductError, TrainingError
from flat_weights import flatten_weights
from memory_reuse import freed_memory_kept
from tft_features import FeatureSpec, Windows, softened
from tft_kernels import pinball
from tft_model import NetworkConfig, forecast_scaled
from training_network import build_network
from training_processes import DOCUMENT, Processes
from training_windows import WindowBatches
from weight_average import WeightAverage

BEST, LAST = "best", "last"

_SHORTEST_SCHEDULE = 20  # steps; in fewer the schedule's rise would have no length, and a training just ends within it
_LARGEST_GRADIENT = 1.0  # norm to which longer gradients are cut
_SEEDS = 2**63  # how many the generator of random numbers takes
_SLOWER = 0.1  # of the learning rate, after a loss that was not finite


@dataclass(frozen=True)
class EpochRecord:
    """What is reported and kept of an epoch.

    Attributes
    ----------
    share : float
        Share of its batches that were learned from; below 1 where the time was up.
    """

    epoch: int
    train_loss: float
    val_loss: float
    learning_rate: float
    samples_per_second: float
    seconds: float
    share: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn.

    Attributes
    ----------
    patience : int
        Epochs without a better validation loss before the training ends.
    seed : int
        Of the weights' initial values and of dropout.
    save_seconds : float
        Longest time between two checkpoints, in the middle of an epoch, too.
    keep_every : int
        Epochs between checkpoints that stay.
    """

    epochs: int
    learning_rate: float
    patience: int
    seed: int
    save_seconds: float = math.inf
    keep_every: int = 5


@dataclass
class Progress:
    """Where a training stands.

    Attributes
    ----------
    epoch : int
        Epochs that are done, validation included.
    batch : int
        Batches of the next one that are done.
    loss_sum, known : float
        Sum of the loss over the labels of those batches, and their number.
    epoch_seconds, train_seconds : float
        Time that epoch has taken so far, altogether and for learning alone.
    rate : float
        Share of the planned learning rate that is used; below 1 after a loss that was not finite.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    known: float = 0.0
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    rate: float = 1.0
    records: list[EpochRecord] = field(default_factory=list)


class ForecastLoss(nn.Module):
    """The network, and the loss that it is trained with.

    Parameters
    ----------
    usual_spread : sequence of float
        `mean_root_spread` of the training period: what the spread of a window is measured by.
    """

    quantiles: Tensor
    usual_spread: Tensor

    def __init__(self, spec: FeatureSpec, network: NetworkConfig, usual_spread: Sequence[float]) -> None:
        super().__init__()
        self.network = build_network(spec, network)
        self.register_buffer("quantiles", torch.tensor(spec.quantiles), persistent=False)
        self.register_buffer("usual_spread", torch.tensor(usual_spread), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Summed loss of each metric, (n_metrics,)."""
        windows = batch.windows
        forecast = forecast_scaled(self.network, windows)
        weight = windows.weight[:, None] * windows.scale.importance(self.usual_spread)
        return pinball(softened(forecast.float()), softened(windows.labels), self.quantiles, weight)


class Batch:
    """Windows in a wrapping that Lightning and DDP pass on as they are; they would copy or round what they know."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows


class Training:
    """A training in memory.

    Parameters
    ----------
    learner : ForecastLoss
        What learns; its weights are changed in place.
    batches, validation : WindowBatches
        This process' share of them, on the CPU.
    save : callable, optional
        Keeps `state` under the given names.
    report : object, optional
        Told of epochs and batches, see `training_report.py`.
    """

    def __init__(
        self,
        learner: ForecastLoss,
        batches: WindowBatches,
        validation: WindowBatches,
        plan: Plan,
        processes: Processes,
        *,
        save: Callable[[dict[str, Any], tuple[str, ...]], None] | None = None,
        report: Any = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.learner, self.plan, self.progress = learner, plan, Progress()
        self._batches, self._validation, self._processes = batches, validation, processes
        self._save, self._report, self._stop = save, report, stop or StopRequest()
        self._module = processes.setup(learner)
        self._weights, self._optimizer = _optimizer(learner, plan, processes)
        self._average = WeightAverage(self._weights)
        self._stepper: Any = processes.fabric.setup_optimizers(self._optimizer)
        steps = max(plan.epochs * len(batches), _SHORTEST_SCHEDULE)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=plan.learning_rate, total_steps=steps, pct_start=0.1
        )
        self._saved = time.monotonic()

    # ------------------------------------------------------------------------------------------------------- as a whole
    @property
    def windows(self) -> int:
        """Windows of an epoch, over all processes."""
        return self._batches.windows

    @property
    def best(self) -> EpochRecord | None:
        """The epoch with the lowest validation loss so far."""
        return min(self.progress.records, key=lambda record: record.val_loss, default=None)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or too many went by without a better validation loss."""
        best = self.best
        return self.progress.epoch >= self.plan.epochs or (
            best is not None and self.progress.epoch - best.epoch >= self.plan.patience
        )

    def run(self, after_epoch: Callable[[EpochRecord], bool] | None = None) -> None:
        """Learn until all is done, time is up, or `after_epoch` says so.

        Raises
        ------
        TrainingStopped
            If a signal asked for it; all that is needed to go on is saved.
        TrainingError
            If the loss is not finite, or a checkpoint cannot be saved.
        """
        with warnings.catch_warnings(), freed_memory_kept():
            # With 16-bit floats the first steps are left out until the scale of the gradients is found.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            while not self.is_done:
                time_is_up = self._learn()
                record = self._close_epoch(self._validate())
                if time_is_up or (after_epoch is not None and after_epoch(record)):
                    return

    def state(self) -> dict[str, Any]:
        """All that is needed to go on to the bit; `average` are the weights that are validated and served."""
        progress = asdict(self.progress)
        with self._average.in_use():
            average = {name: tensor.clone() for name, tensor in self.learner.network.state_dict().items()}
        return {
            "progress": progress,
            "weights": self.learner.network.state_dict(),
            "average": average,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "precision": self._processes.fabric.strategy.precision.state_dict(),
        }

    def load_state(self, state: dict[str, Any], rate: float = 1.0) -> None:
        """Inverse of `state`, before `run`; `rate` is the share of the planned learning rate to go on with."""
        progress = dict(state["progress"])
        records = [EpochRecord(**record) for record in progress.pop("records")]
        self.progress = Progress(**progress, records=records)
        if not 0 < self.progress.rate <= 1:
            raise ValueError(f"the share of the learning rate is {self.progress.rate}")
        self.learner.network.load_state_dict(state["average"])
        self._average.take()
        self.learner.network.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._processes.fabric.strategy.precision.load_state_dict(state["precision"])
        self.slow_down(rate)

    def slow_down(self, rate: float) -> None:
        """Use this share of the planned learning rate from now on."""
        change, self.progress.rate = rate / self.progress.rate, rate
        if change == 1:
            return
        for group in self._optimizer.param_groups:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                group[key] *= change

    # --------------------------------------------------------------------------------------------------------- an epoch
    def _learn(self) -> bool:
        """Go through what is left of an epoch's batches; whether the time was up before their end."""
        progress, batches = self.progress, self._batches
        if self._report is not None:
            self._report.begin_epoch(progress)
        self.learner.train()
        batches.epoch, batches.first_batch = progress.epoch, progress.batch
        began, before = time.monotonic(), progress.train_seconds
        others = progress.epoch_seconds - before
        remaining = iter(batches) if progress.batch < len(batches) else iter(())
        for windows in remaining:
            stopped, late, due = self._step(windows)
            progress.batch += 1
            progress.train_seconds = before + time.monotonic() - began
            progress.epoch_seconds = progress.train_seconds + others
            if stopped:
                self._keep(LAST)
                raise TrainingStopped
            if late:
                return True
            if due:
                self._keep(LAST)
            if self._report is not None:
                self._report.batch_done(progress)
        return False

    def _step(self, windows: Windows) -> tuple[bool, bool, bool]:
        """Learn from a batch; whether to stop, whether time is up, and whether a checkpoint is due."""
        processes, progress = self._processes, self.progress
        # Dropout depends on the step alone, so that a resumed run goes on exactly as an uninterrupted one would have.
        torch.manual_seed((self.plan.seed + progress.step * processes.ranks + processes.rank) % _SEEDS)
        (known,) = processes.sums(float(torch.isfinite(windows.labels).sum()))
        losses = processes.forward(self._module, Batch(windows.to(processes.device)))
        loss = losses.sum()
        # The mean over the labels of all processes: DDP takes the mean of their gradients.
        processes.backward(loss * (processes.ranks / max(known, 1.0)))
        due = self._save is not None and time.monotonic() - self._saved > self.plan.save_seconds
        total, *flags = processes.sums(float(loss.detach()), self._stop.is_asked, self._stop.is_late, due)
        if not math.isfinite(total):
            self._refuse(losses.detach())
        processes.fabric.strategy.precision.unscale_gradients(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._weights, _LARGEST_GRADIENT)
        # 16-bit floats find the scale of their gradients by such steps, and leave them out by themselves.
        if processes.precision != "16-mixed" and not math.isfinite(norm):
            self._refuse(losses.detach(), float(norm))
        self._stepper.step()
        self._optimizer.zero_grad(set_to_none=False)
        self._schedule.step()
        progress.step += 1
        self._average.add(progress.step)
        progress.loss_sum += total
        progress.known += known
        stopped, late, due = (flag > 0 for flag in flags)
        return stopped, late, due

    def _refuse(self, losses: Tensor, gradient: float | None = None) -> None:
        """End a training whose loss, or the norm of whose gradient, is not finite."""
        sums = dict(zip(METRIC_COLUMNS, self._processes.sums(*(float(value) for value in losses)), strict=True))
        what = [f"{metric} {value}" for metric, value in sums.items() if not math.isfinite(value)] or ["their sum"]
        if gradient is not None:  # of the metrics together, so it can only be told which of them is likely to blame
            largest = max(sums, key=lambda metric: sums[metric])
            what = [f"{gradient}, while {largest} has the largest loss of that batch"]
        of = "loss" if gradient is None else "gradient of the loss"
        raise LossNotFiniteError(self.progress.epoch + 1, self.progress.batch + 1, what, of)

    def _validate(self) -> float:
        """Loss of the averaged weights over the validation windows."""
        processes, progress = self._processes, self.progress
        began, before = time.monotonic(), progress.epoch_seconds
        self.learner.eval()
        loss_sum = known = stopped = 0.0
        with torch.no_grad(), processes.fabric.autocast(), self._average.in_use():
            for windows in self._validation:
                loss_sum += float(self.learner(Batch(windows.to(processes.device))).sum())
                known += float(torch.isfinite(windows.labels).sum())
                (stopped,) = processes.sums(self._stop.is_asked)
                if stopped:
                    break
        if stopped:  # only now the network has its own weights again
            self._keep(LAST)
            raise TrainingStopped
        progress.epoch_seconds = before + time.monotonic() - began
        loss_sum, known = processes.sums(loss_sum, known)
        return loss_sum / max(known, 1.0)

    def _close_epoch(self, val_loss: float) -> EpochRecord:
        """Note how the epoch went, and keep what it has brought."""
        progress = self.progress
        seconds = max(progress.train_seconds, 1e-9)
        windows = self._batches.windows * progress.batch / len(self._batches)
        record = EpochRecord(
            epoch=progress.epoch + 1,
            train_loss=progress.loss_sum / max(progress.known, 1.0),
            val_loss=val_loss,
            learning_rate=float(self._optimizer.param_groups[0]["lr"]),
            samples_per_second=windows / seconds,
            seconds=progress.epoch_seconds,
            share=progress.batch / len(self._batches),
        )
        if not math.isfinite(val_loss):
            raise LossNotFiniteError(record.epoch, None, [f"validation loss {val_loss}"])
        progress.records.append(record)
        progress.epoch, progress.batch = record.epoch, 0
        progress.loss_sum = progress.known = progress.epoch_seconds = progress.train_seconds = 0.0
        names = [BEST] * (self.best is record) + [f"epoch-{record.epoch}"] * (record.epoch % self.plan.keep_every == 0)
        self._keep(*names, LAST)
        if self._report is not None:
            self._report.end_epoch(record, progress)
        return record

    def _keep(self, *names: str) -> None:
        self._saved = time.monotonic()
        if self._save is not None:
            save = self._save
            self._processes.together(lambda: save(self.state(), names))

    # ------------------------------------------------------------------------------------------------------ beforehand
    def measure(self, seconds: float = 2.0) -> tuple[float, float]:
        """Seconds that a training batch and a validation batch take here, tried on copies that are thrown away.

        In the training's precision, and without what several processes exchange.
        """
        processes = self._processes
        learner = copy.deepcopy(self.learner).to(processes.device)
        weights, optimizer = _optimizer(learner, self.plan, processes)
        tries = copy.copy(self._batches), copy.copy(self._validation)
        for each in tries:
            each.epoch, each.first_batch = 0, 0
        steps, checks = [], []
        state = torch.get_rng_state()
        kept = contextlib.ExitStack()
        try:
            kept.enter_context(freed_memory_kept())
            began = time.monotonic()
            for windows in tries[0]:
                with processes.fabric.autocast():
                    loss = learner(Batch(windows.to(processes.device))).sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
                steps.append(time.monotonic())
                if len(steps) > 2 and steps[-1] - began > seconds:
                    break
            learner.eval()
            checked = time.monotonic()
            with torch.no_grad(), processes.fabric.autocast():
                for windows in tries[1]:
                    float(learner(Batch(windows.to(processes.device))).sum())
                    checks.append(time.monotonic())
                    if checks[-1] - checked > seconds / 4:
                        break
        finally:
            torch.set_rng_state(state)
        return _pace([began, *steps]), _pace([checked, *checks])

    def expected_seconds(self) -> float:
        """Time that the rest of the training takes on this machine if nothing ends it early."""
        step, check = self.measure()
        left = (self.plan.epochs - self.progress.epoch) * len(self._batches) - self.progress.batch
        return left * step + (self.plan.epochs - self.progress.epoch) * len(self._validation) * check


def _pace(moments: list[float]) -> float:
    """Typical time between moments; the first one, in which memory is found and code is loaded, counts only alone."""
    gaps = [after - before for before, after in pairwise(moments)]
    usual = sorted(gaps[1:] or gaps or [0.0])
    return usual[len(usual) // 2]


def _optimizer(
    learner: nn.Module, plan: Plan, processes: Processes
) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    """AdamW for a learner on its device, and the weights that it is for.

    On a CPU they are one tensor. On a GPU, cuDNN wants the LSTM's weights where it has put them, and fused kernels take
    all tensors at once anyway; but under 16-bit floats these would undo the gradients' scale by themselves, and the
    gradients could not be cut before.
    """
    weights = [flatten_weights(learner)] if processes.device.type == "cpu" else list(learner.parameters())
    fused = processes.precision != "16-mixed"
    return weights, torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=1e-4, fused=fused)


# ------------------------------------------------------------------------------------------------------------- stopping
class TrainingStopped(Exception):  # noqa: N818  # no error: the user asked for it
    """A training was asked to stop, and what is needed to go on is saved."""


class LossNotFiniteError(Exception):
    """The loss or gradient of a batch, or the validation loss where `batch` is None, is not a number or infinite."""

    def __init__(self, epoch: int, batch: int | None, what: list[str], of: str = "loss") -> None:
        super().__init__(epoch, batch, what, of)
        self.epoch, self.batch, self.what, self.of = epoch, batch, what, of

    def told(self, kept: str) -> ProductError:
        """What a person is told; `kept` says which checkpoint there is to go on from."""
        where = f"epoch {self.epoch}" + ("'s validation" if self.batch is None else f", batch {self.batch}")
        return TrainingError(
            f"The {self.of} is not finite any more, in {where}: {', '.join(self.what)}.",
            why=f"Weights that are not finite forecast nothing. {kept}",
            fix=f"--resume goes on from there with {_SLOWER:g} times the learning rate; or train anew with a smaller "
            "TFT_LEARNING_RATE.",
            document=DOCUMENT,
        )


def slower(rate: float) -> float:
    """Share of the learning rate to go on with after a loss that was not finite."""
    return rate * _SLOWER


class StopRequest:
    """Asks a training to end: after the batch on Ctrl-C or SIGTERM, with validation and a model when its time is up."""

    def __init__(self, max_seconds: float | None = None) -> None:
        self._deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self.signal: signal.Signals | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._deadline

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
