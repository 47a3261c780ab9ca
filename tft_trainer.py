"""How a Parquet becomes a model folder: data, training with Lightning Fabric, checkpoints, the quality gate, the model.

    python tft_trainer.py --data training/server_metrics.parquet --preset standard
    torchrun --nproc_per_node 2 tft_trainer.py --data training/server_metrics.parquet --strategy ddp

Training windows end before the validation period begins; the best weights by validation loss become the model. An
interrupted run lies in `models/runs/` and goes on with `--resume`. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from alert_replay import MOST_FORECASTS
from breach_training import train_risk_calibration
from child_processes import ended_by_signals
from common_utils import iso_z, utc_now
from config import Settings
from data_contract import DAY_STEPS, ProductError, TrainingError
from fleet_grid import time_of
from fleet_spreads import mean_root_spread, typical_spread
from model_folder import LoadedModel, contract_of_models, save_model, weight_faults
from model_inputs import Layout
from risk_calibration import RiskCalibration
from server_encoder import ServerEncoder
from tft_features import Augmentation, FeatureSpec, FleetTensors
from tft_forecaster import Forecaster
from tft_model import NetworkConfig
from training_data import TrainingData, load_fleet, open_fleet
from training_loop import ForecastLoss, LossNotFiniteError, Plan, StopRequest, Training, TrainingStopped, slower
from training_network import FastTemporalFusionTransformer
from training_options import Hardware, Restrictions, duration_text, is_launched, is_restarted, launch_name
from training_origins import Origins, Split, split_origins
from training_processes import DOCUMENT, Processes, ProcessLostError, end_quietly, process_lost
from training_report import TrainingReport
from training_runs import GRID, Run, interrupted_run, restarted_run
from training_scores import (
    describe_data,
    describe_hyperparameters,
    describe_losses,
    fit_quantiles,
    judge_quality,
    library_versions,
    validation_scores,
)
from training_windows import WindowBatches

REJECTED = "rejected"
_CALIBRATION_WORK = 0.85  # servers that are forecast for it, per window learned from
_LEAST_WORK = 6_000  # after the shortest training, too: a second or two
_CALIBRATION_COST = 0.35  # time that each takes, in that of a window


@dataclass(frozen=True)
class _Lesson:
    """What is learned from, and by what."""

    data: TrainingData
    split: Split
    encoder: ServerEncoder
    spec: FeatureSpec
    network: NetworkConfig
    fleet: FleetTensors
    usual_spread: tuple[float, ...]

    def batches(self, settings: Settings, rank: int = 0, ranks: int = 1) -> tuple[WindowBatches, WindowBatches]:
        """Training and validation windows: the share of one process."""

        def make(origins: Origins, windows: int, augmentation: Augmentation | None) -> WindowBatches:
            return WindowBatches(
                self.fleet,
                self.spec,
                origins,
                windows=windows,
                batch_size=settings.batch_size,
                seed=settings.seed,
                augmentation=augmentation,
                rank=rank,
                ranks=ranks,
            )

        training = make(self.split.train, settings.windows_per_epoch, Augmentation())
        return training, make(self.split.validation, settings.validation_windows, None)


def train(
    data_path: Path,
    models_dir: Path,
    settings: Settings,
    *,
    epochs: int = 10,
    resume: bool = False,
    max_seconds: float | None = None,
    hardware: Hardware | None = None,
    restrictions: Restrictions | None = None,
    console: Console | None = None,
) -> Path:
    """Learn from contract data and save a model folder, to which `models/latest` then points.

    Of several processes, only the first one returns; the others end with it.

    Parameters
    ----------
    data_path : Path
        Parquet file or folder; it is validated strictly first.
    epochs : int
        At most so many; early stopping may end sooner.
    resume : bool
        Go on with the newest interrupted run of `models_dir`, with that run's epochs and settings.
    max_seconds : float, optional
        End after so long with the best weights so far.
    hardware : Hardware, optional
        What to run on; a GPU if there is one, without.
    restrictions : Restrictions, optional
        What of the data is not seen by anything here: rows from a time on, and some of the servers.
    console : Console, optional
        Where to report progress; silent without.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    DataFileError, ContractError
        If the data cannot be read or breaks the contract.
    TrainingError
        If there is too little history, the loss is not finite, the disk is full, the data or the restrictions are not
        those of the run to resume, the model fails the quality gate, the hardware is not there, or the training was
        interrupted.
    """
    is_first = not is_launched() or os.environ["RANK"] == "0"
    is_told = False  # by the first process, which has met the same error
    try:
        with ended_by_signals(), contextlib.closing(Processes(hardware or Hardware())) as processes:
            is_told = True
            run = partial(_find_run, models_dir, settings, epochs, restrictions, resume=resume)
            return _train(data_path, models_dir, settings, run, max_seconds, processes, console)
    except ProcessLostError:
        failure: ProductError = process_lost()
    except ProductError as error:  # some of ours are OSErrors, too
        failure = error
    except KeyboardInterrupt as error:
        failure = TrainingError(
            f"The training was stopped by {error.args[0] if error.args else 'SIGINT'}, not at the end of a batch.",
            why="No model was made of it; what the last checkpoint holds is kept, if there was one.",
            fix="Go on with the same command and --resume; if that finds no interrupted training, without it.",
            document=DOCUMENT,
        )
    except OSError as error:
        is_told = False
        failure = TrainingError(
            f"The training cannot write to {models_dir}: {error.strerror or error}.",
            why="Checkpoints, the record of the losses and the model are kept there; what stands there is whole.",
            fix="Free some space, mend the permissions or choose another --models-dir; --resume goes on where it can.",
            document=DOCUMENT,
        )
    if not is_first:
        if not is_told:
            print(f"Error in process {os.environ['RANK']}: {failure}", file=sys.stderr)
        end_quietly(1)
    raise failure


def _train(
    data_path: Path,
    models_dir: Path,
    settings: Settings,
    find_run: Callable[[], Run],
    max_seconds: float | None,
    processes: Processes,
    console: Console | None,
) -> Path:
    """Train, without the telling of disk trouble, of signals and of lost processes."""
    started = time.monotonic()
    stop = StopRequest(max_seconds)
    with contextlib.ExitStack() as held:
        if not processes.is_first:
            console = None
            held.enter_context(stop.listening())  # from the first moment on: the first process decides what happens

        found = processes.together(lambda: find_run().told())
        run = Run.heard(found)
        if processes.is_first:
            held.enter_context(run.at_work())
        run = run.on(processes.device.type, processes.precision)
        if run.fingerprint:  # begun before: as it was, whatever is set now
            settings = run.apply_to(settings)
        run, data = _read(data_path, run, processes, TrainingReport(console, run.epochs, 0))
        lesson = _lesson(data, settings)
        torch.manual_seed(settings.seed)
        learner = ForecastLoss(lesson.spec, lesson.network, lesson.usual_spread)
        batches, validation = lesson.batches(settings, processes.rank, processes.ranks)
        processes.together(lambda: run.note().told())  # from here on it can be gone on with
        report = TrainingReport(console, run.epochs, len(batches))
        plan = Plan(
            epochs=run.epochs,
            learning_rate=settings.learning_rate,
            patience=settings.early_stopping_patience,
            seed=settings.seed,
            save_seconds=settings.checkpoint_minutes * 60,
            keep_every=settings.checkpoint_every_epochs,
        )
        session = _Session(run, started, is_first=processes.is_first)
        training = Training(learner, batches, validation, plan, processes, save=session.save, report=report, stop=stop)
        session.take_up(training, processes)
        _introduce(lesson, training, processes, report, max_seconds)
        with stop.listening() if processes.is_first else contextlib.nullcontext():
            try:
                session.go(training, stop)
            finally:
                report.close()
        processes.leave_unless_first(0)
        processes.close()
        return _make_model(models_dir, session, lesson, training, settings, processes, report)


def _find_run(
    models_dir: Path, settings: Settings, epochs: int, restrictions: Restrictions | None, *, resume: bool
) -> Run:
    """Which run to go on with, or a fresh one."""
    launch = launch_name()
    run = restarted_run(models_dir, launch) if is_restarted() else None
    if run is None:
        run = interrupted_run(models_dir) if resume else Run.begin(models_dir, settings, epochs, restrictions)
    run.insist_on_restrictions(restrictions)
    return replace(run, launch=launch)


def _read(data_path: Path, run: Run, processes: Processes, report: TrainingReport) -> tuple[Run, TrainingData]:
    """Let the first process average the data onto the grid, and all map it."""
    folder = run.folder / GRID

    def read() -> str:
        try:
            fingerprint = load_fleet(data_path, folder, report.reading, run.restrictions).fingerprint
        finally:
            report.close()
        run.insist_on_data(fingerprint)
        return fingerprint

    known = replace(run, fingerprint=processes.together(read))
    return known, processes.each(lambda: open_fleet(folder))


def _lesson(data: TrainingData, settings: Settings) -> _Lesson:
    """Make of the data what is learned from."""
    grid = data.grid
    split = split_origins(grid, settings.validation_share)
    encoder = ServerEncoder()
    encoder.create_mapping(grid.names)
    learned = grid.until(grid.first_step + split.train_end)
    spec = FeatureSpec(
        layout=Layout.parse(settings.encoder_pieces, settings.decoder_patch),
        server_ids=tuple(sorted(encoder.name_to_id.values())),
        prior_scale=typical_spread(learned),
    )
    fleet = FleetTensors.from_grid(grid, spec, [encoder.encode(name) for name in grid.names])
    network = NetworkConfig(settings.hidden_size, settings.attention_heads, settings.dropout)
    return _Lesson(data, split, encoder, spec, network, fleet, mean_root_spread(learned))


class _Session:
    """What one process does with a run: from where it goes on, and how it ends."""

    def __init__(self, run: Run, started: float, *, is_first: bool) -> None:
        self.run, self._is_first = run, is_first
        self._started, self._earlier = started, 0.0

    @property
    def seconds(self) -> float:
        """Time that the run has taken, earlier sessions included."""
        return self._earlier + time.monotonic() - self._started

    def save(self, state: dict[str, Any], names: tuple[str, ...]) -> None:
        """Keep the training's state."""
        self.run.save({**state, "seconds": self.seconds}, names)

    def take_up(self, training: Training, processes: Processes) -> None:
        """Go on from the newest checkpoint, if there is one."""

        def load() -> None:
            path = self.run.newest_checkpoint()
            if path is None:
                training.slow_down(self.run.rate)
                return
            state = self.run.load(path)
            try:
                wanted = training.learner.network.state_dict()
                faults = [fault for name in ("weights", "average") for fault in weight_faults(wanted, state[name])]
                if not faults:
                    training.load_state(state, self.run.rate)
                    self._earlier = float(state["seconds"])
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise self.run.unusable(f"{path.name} does not hold what it should ({error!r})") from error
            if faults:
                raise self.run.unusable(f"{path.name} does not fit the network ({faults[0]})")

        processes.each(load)

    def go(self, training: Training, stop: StopRequest) -> None:
        """Learn; every way in which it ends early becomes an error that says how to go on."""
        standing = training.progress
        try:
            training.run()
        except TrainingStopped:
            raise TrainingError(
                f"The training was stopped by {stop.signal.name if stop.signal else 'a signal'} in epoch "
                f"{standing.epoch + 1} of {self.run.epochs}, after {standing.batch} batches of it.",
                why="No model was made of it; what it has learned up to there is kept.",
                fix="Go on with the same command and --resume.",
                document=DOCUMENT,
            ) from None
        except LossNotFiniteError as error:
            kept = self.run.newest_checkpoint()
            if self._is_first:
                self.run = self.run.note(rate=slower(standing.rate))
            raise error.told(
                "There is no checkpoint yet."
                if kept is None
                else f"The last good checkpoint, {kept.name}, is kept in {self.run.folder}."
            ) from None


def _introduce(
    lesson: _Lesson, training: Training, processes: Processes, report: TrainingReport, max_seconds: float | None
) -> None:
    """Say what is learned from, on what, and how long it will take."""
    grid, plan = lesson.data.grid, training.plan
    begin, middle, end = (
        f"{time_of(grid.first_step + column):%Y-%m-%d %H:%M}" for column in (0, lesson.split.train_end, grid.n_steps)
    )
    unseen = lesson.data.held_out
    report.say(
        f"Learning from {grid.n_servers} servers, {begin} to {middle} UTC; the rest, to {end}, judges. "
        f"{f'{len(unseen)} more servers are held out. ' if unseen else ''}"
        f"Up to {plan.epochs} epochs of {training.windows:,} windows."
    )
    learning = training.expected_seconds()
    is_limited = max_seconds is not None and max_seconds <= learning
    limit = f"; learning ends after {duration_text(max_seconds)}" if is_limited and max_seconds is not None else ""
    expected = learning + _seconds_of_calibration(training, learning)
    at = training.progress
    where = f"Going on in epoch {at.epoch + 1}, batch {at.batch + 1}. " if at.step else ""
    report.say(
        f"{where}Expected: about {duration_text(expected)} on this machine ({processes}){limit}. "
        f"{plan.patience} epochs without a better validation loss end it sooner."
    )


def _work_of_calibration(windows: int) -> int:
    """How much is forecast to learn how the risk of a model is to be read that has learned from so many windows."""
    return min(MOST_FORECASTS, max(_LEAST_WORK, round(_CALIBRATION_WORK * windows)))


def _seconds_of_calibration(training: Training, learning: float) -> float:
    """Time that it takes, if the rest of the learning takes so long."""
    windows = training.plan.epochs * training.windows
    left = 1 - min(training.progress.epoch, training.plan.epochs - 1) / training.plan.epochs
    return learning / left * _CALIBRATION_COST * _work_of_calibration(windows) / windows


def _make_model(
    models_dir: Path,
    session: _Session,
    lesson: _Lesson,
    training: Training,
    settings: Settings,
    processes: Processes,
    report: TrainingReport,
) -> Path:
    """Turn the best weights into a model folder, if they pass the quality gate."""
    run, records = session.run, training.progress.records
    best = min(records, key=lambda record: record.val_loss)
    weights = run.best_weights(best.epoch, best.val_loss)
    network = training.learner.network.cpu()
    faults = weight_faults(network.state_dict(), weights)
    if faults:
        raise run.unusable(f"the weights of its best epoch do not fit the network ({faults[0]})")
    network.load_state_dict(weights)
    network.eval()
    quality = judge_quality(records)
    created = utc_now()
    name = _free_name(models_dir, created)
    _, validation = lesson.batches(settings)
    days = (lesson.data.grid.n_steps - lesson.split.train_end) / DAY_STEPS
    calibration = fit_quantiles(network, lesson.spec, validation, days)
    lesson = replace(lesson, spec=replace(lesson.spec, calibration=calibration))
    risk = _calibration(lesson, network, settings, training.windows * len(records), report)
    info = {
        "created_at": iso_z(created.replace(microsecond=0)),
        "data": describe_data(lesson.data, lesson.split),
        "hyperparameters": describe_hyperparameters(
            lesson.network, lesson.spec, settings, run.epochs, training.progress.rate
        ),
        **describe_losses(records),
        "quality": quality,
        "validation": validation_scores(network, lesson.spec, validation),
        "risk_calibration": None if risk is None else risk.as_dict(),
        "libraries": library_versions(),
        "hardware": processes.describe(),
        "wall_time_seconds": round(session.seconds, 1),
    }
    passed = not quality["failures"]
    destination = models_dir if passed else models_dir / REJECTED
    folder = save_model(
        destination,
        name,
        weights,
        lesson.spec,
        lesson.network,
        info,
        lesson.encoder,
        reader=None if risk is None else risk.reader,
        make_latest=passed,
    )
    run.note(model=folder.name)
    if not passed:
        raise TrainingError(
            f"The model did not pass the quality gate: {'; '.join(quality['failures'])}.",
            why="A model that has not learned, or only by heart, would mislead people; `latest` stays as it was.",
            fix=f"Train for longer or on more data; the rejected model lies in {folder} for inspection.",
            document=DOCUMENT,
        )
    return folder


def _calibration(
    lesson: _Lesson, network: FastTemporalFusionTransformer, settings: Settings, windows: int, report: TrainingReport
) -> RiskCalibration | None:
    """Learn how the model's risk is to be read; None if there is too little to tell by.

    It takes at most about a third of the time that learning from so many windows has taken.
    """
    forecaster = Forecaster(LoadedModel("", network, lesson.spec, contract_of_models(), lesson.encoder))
    try:
        fitted = train_risk_calibration(
            forecaster.predict_grid,
            lesson.data.grid,
            lesson.split.train_end,
            settings,
            history_steps=forecaster.history_steps,
            most=_work_of_calibration(windows),
            progress=report.calibrating,
        )
    finally:
        report.close()
    if fitted is None:
        report.say("The risk stays uncalibrated: the validation period has too few crossings of critical thresholds.")
        return None
    if fitted.reader is None:
        report.say("The risk is read off the quantiles alone: the time learned from has too few crossings for more.")
    policy = fitted.policy
    report.say(f"The risk is calibrated; alerts open at {policy.open_at:.2f} and close below {policy.close_at:.2f}.")
    return fitted


def _free_name(models_dir: Path, moment: datetime) -> str:
    """Name of a new model folder, `tft_model_YYYYMMDD_HHMMSS` (UTC); a second later if that is taken."""
    while True:
        name = f"tft_model_{moment:%Y%m%d_%H%M%S}"
        if not (models_dir / name).exists() and not (models_dir / REJECTED / name).exists():
            return name
        moment += timedelta(seconds=1)


if __name__ == "__main__":
    from main import run_command

    run_command("train")
