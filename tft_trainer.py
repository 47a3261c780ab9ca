"""How a Parquet becomes a model folder: windows, loss, training with Lightning, checkpoints, and the model's scores.

    python tft_trainer.py --data training/server_metrics.parquet --epochs 10

Training windows end before the validation period begins; the best weights by validation loss become the model. An
interrupted run lies in `models/runs/` and goes on with `--resume`. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from common_utils import iso_z, utc_now, write_json
from config import Settings
from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS, ProductError, TrainingError
from data_validator import load_valid_frame
from fleet_grid import FleetGrid, time_of
from model_folder import save_model
from server_encoder import ServerEncoder
from tft_features import Augmentation, FeatureSpec, FleetTensors, typical_spread
from tft_model import NetworkConfig, forecast_scaled
from training_checkpoints import SafetensorsCheckpointIO
from training_loop import EpochRecord, EpochReport, ForecastTask, StopRequest, TrainingStopped
from training_windows import Split, WindowBatches, split_origins

RUNS = "runs"
REJECTED = "rejected"
LAST_CHECKPOINT = "last.safetensors"
BEST_CHECKPOINT = "best.safetensors"

MAX_LOSS_RATIO = 1.5

_RUN_FILE = "run.json"
_NETWORK_SETTINGS = ("hidden_size", "attention_heads", "dropout", "encoder_steps")
_TRAINING_SETTINGS = (
    "learning_rate",
    "batch_size",
    "windows_per_epoch",
    "validation_windows",
    "validation_share",
    "early_stopping_patience",
    "seed",
)


@dataclass(frozen=True)
class _Run:
    """An interrupted or fresh training: where it lies and what it was begun with."""

    folder: Path
    epochs: int
    fingerprint: str
    settings: dict[str, Any]

    @property
    def checkpoint(self) -> Path | None:
        """Where to go on from; None before the first epoch's end."""
        path = self.folder / LAST_CHECKPOINT
        return path if path.is_file() else None


class _Checkpoint(ModelCheckpoint):
    FILE_EXTENSION = ".safetensors"


def train(
    data_path: Path,
    models_dir: Path,
    settings: Settings,
    *,
    epochs: int = 10,
    resume: bool = False,
    max_minutes: float | None = None,
    console: Console | None = None,
) -> Path:
    """Learn from contract data and save a model folder, to which `models/latest` then points.

    Parameters
    ----------
    data_path : Path
        Parquet file or folder; it is validated strictly first.
    epochs : int
        At most so many; early stopping may end sooner.
    resume : bool
        Go on with the newest interrupted run of `models_dir`, with that run's epochs and settings.
    max_minutes : float, optional
        End after so long with the best weights so far.
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
        If there is too little history, the loss is not finite, the disk is full, the data changed since the run to
        resume, the model fails the quality gate, or the training was interrupted.
    """
    try:
        return _train(data_path, models_dir, settings, epochs, resume, max_minutes, console)
    except ProductError:  # some of ours are OSErrors, too
        raise
    except OSError as error:
        raise TrainingError(
            f"The training cannot write to {models_dir}: {error.strerror or error}.",
            why="Checkpoints, the record of the losses and the model are kept there; what stands there is whole.",
            fix="Free some space, mend the permissions or choose another --models-dir; --resume goes on where it can.",
        ) from error


def _train(
    data_path: Path,
    models_dir: Path,
    settings: Settings,
    epochs: int,
    resume: bool,
    max_minutes: float | None,
    console: Console | None,
) -> Path:
    """Train, without the telling of disk trouble."""
    say = console.print if console is not None else _silent
    started = time.monotonic()
    grid = FleetGrid.from_frame(load_valid_frame(data_path))
    fingerprint = hashlib.sha256(grid.values.tobytes() + "\0".join(grid.names).encode()).hexdigest()
    run = _interrupted_run(models_dir, fingerprint) if resume else None
    if run is not None:  # goes on as it was begun, whatever is set now
        settings = settings.model_copy(update=run.settings)
    split = split_origins(grid, settings.validation_share)
    encoder = ServerEncoder()
    encoder.create_mapping(grid.names)
    spec = FeatureSpec(
        encoder_steps=settings.encoder_steps,
        server_ids=tuple(sorted(encoder.name_to_id.values())),
        prior_scale=typical_spread(grid.until(grid.first_step + split.train_end)),
    )
    fleet = FleetTensors.from_grid(grid, spec, [encoder.encode(name) for name in grid.names])
    if run is None:
        run = _Run(
            folder=models_dir / RUNS / f"{utc_now():%Y%m%d_%H%M%S_%f}",
            epochs=epochs,
            fingerprint=fingerprint,
            settings={key: getattr(settings, key) for key in (*_NETWORK_SETTINGS, *_TRAINING_SETTINGS)},
        )
        _note_run(run, model=None)

    pl.seed_everything(settings.seed, verbose=False)
    network = NetworkConfig(settings.hidden_size, settings.attention_heads, settings.dropout)

    def batches(origins: Any, windows: int, augmentation: Augmentation | None) -> WindowBatches:
        size, seed = settings.batch_size, settings.seed
        return WindowBatches(
            fleet, spec, origins, windows=windows, batch_size=size, seed=seed, augmentation=augmentation
        )

    training = batches(split.train, settings.windows_per_epoch, Augmentation())
    validation = batches(split.validation, settings.validation_windows, None)
    task = ForecastTask(
        spec, network, learning_rate=settings.learning_rate, total_steps=run.epochs * len(training), seed=settings.seed
    )
    report = EpochReport(run.folder / "losses.json", run.epochs, training, console)
    begin, middle, end = (
        f"{time_of(grid.first_step + column):%Y-%m-%d %H:%M}" for column in (0, split.train_end, grid.n_steps)
    )
    say(
        f"Learning from {grid.n_servers} servers, {begin} to {middle} UTC; the rest, to {end}, judges. "
        f"Up to {run.epochs} epochs of {training.windows:,} windows.",
        highlight=False,
        soft_wrap=True,
    )
    _fit(task, training, validation, run, report, settings, max_minutes, console)

    weights = _best_weights(run, task)
    task.network.load_state_dict(weights)
    task.network.eval().cpu()
    quality = judge_quality(report.records)
    created = utc_now()
    name = _free_name(models_dir, created)
    info = {
        "created_at": iso_z(created.replace(microsecond=0)),
        "data": _describe_data(grid, split, fingerprint),
        "hyperparameters": _describe_hyperparameters(network, spec, settings, run.epochs),
        **_describe_losses(report.records),
        "quality": quality,
        "validation": validation_scores(task.network, validation),
        "libraries": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "lightning", "pytorch-forecasting")},
        },
        "wall_time_seconds": round(time.monotonic() - started, 1),
    }
    passed = not quality["failures"]
    destination = models_dir if passed else models_dir / REJECTED
    folder = save_model(destination, name, weights, spec, network, info, encoder, make_latest=passed)
    _note_run(run, model=folder.name)
    if not passed:
        raise TrainingError(
            f"The model did not pass the quality gate: {'; '.join(quality['failures'])}.",
            why="A model that has not learned, or only by heart, would mislead people; `latest` stays as it was.",
            fix=f"Train for longer or on more data; the rejected model lies in {folder} for inspection.",
        )
    return folder


def _describe_data(grid: FleetGrid, split: Split, fingerprint: str) -> dict[str, Any]:
    """Tell what was learned from and what judged."""
    return {
        "fingerprint": fingerprint,
        "start": iso_z(time_of(grid.first_step)),
        "end": iso_z(time_of(grid.origin_step)),
        "validation_start": iso_z(time_of(grid.first_step + split.train_end)),
        "servers": grid.n_servers,
        "servers_by_profile": {profile: grid.profiles.count(profile) for profile in sorted(set(grid.profiles))},
    }


def _describe_hyperparameters(
    network: NetworkConfig, spec: FeatureSpec, settings: Settings, epochs: int
) -> dict[str, Any]:
    return {
        **network.as_dict(),
        "encoder_steps": spec.encoder_steps,
        "horizon_steps": HORIZON_STEPS,
        "quantiles": list(spec.quantiles),
        "epochs": epochs,
        "augmentation": asdict(Augmentation()),
        **{key: getattr(settings, key) for key in _TRAINING_SETTINGS},
    }


def _describe_losses(records: list[EpochRecord]) -> dict[str, Any]:
    """Losses of every epoch and of the one whose weights became the model."""
    best = min(records, key=lambda record: record.val_loss)
    return {
        "losses": [asdict(record) for record in records],
        "best_epoch": best.epoch,
        "training_loss": best.train_loss,
        "validation_loss": best.val_loss,
    }


def _silent(*_: Any, **__: Any) -> None:
    """Report nothing."""


def _free_name(models_dir: Path, moment: datetime) -> str:
    """Name of a new model folder, `tft_model_YYYYMMDD_HHMMSS` (UTC); a second later if that is taken."""
    while True:
        name = f"tft_model_{moment:%Y%m%d_%H%M%S}"
        if not (models_dir / name).exists() and not (models_dir / REJECTED / name).exists():
            return name
        moment += timedelta(seconds=1)


def _note_run(run: _Run, model: str | None) -> None:
    """Write down what a run was begun with, and which model it became."""
    content = {"epochs": run.epochs, "fingerprint": run.fingerprint, "settings": run.settings, "model": model}
    write_json(run.folder / _RUN_FILE, content)


def _interrupted_run(models_dir: Path, fingerprint: str) -> _Run:
    """Find the newest run that did not become a model.

    Raises
    ------
    TrainingError
        If there is none, or if it was begun with other data.
    """
    for file in sorted((models_dir / RUNS).glob(f"*/{_RUN_FILE}"), reverse=True):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            kept = {key: content["settings"][key] for key in (*_NETWORK_SETTINGS, *_TRAINING_SETTINGS)}
            run = _Run(file.parent, int(content["epochs"]), str(content["fingerprint"]), kept)
            finished = content["model"] is not None
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run of ours, or one that died while it was begun
        if finished:
            continue
        if run.fingerprint != fingerprint:
            raise TrainingError(
                f"The data is not what the run {run.folder.name} was begun with.",
                why="A model that learned from two different data sets cannot be explained or judged.",
                fix="Give the same --data again, or train anew without --resume.",
            )
        return run
    raise TrainingError(
        f"There is no interrupted training in {models_dir / RUNS}.",
        why="--resume goes on where a training was stopped.",
        fix="Train anew without --resume, or name the right --models-dir.",
    )


def _fit(
    task: ForecastTask,
    training: WindowBatches,
    validation: WindowBatches,
    run: _Run,
    report: EpochReport,
    settings: Settings,
    max_minutes: float | None,
    console: Console | None,
) -> None:
    """Run Lightning; every way in which it ends early becomes an error that says how to go on."""
    stop = StopRequest(max_minutes)
    loaders = (DataLoader(training, batch_size=None), DataLoader(validation, batch_size=None))
    try:
        with stop.listening(), _quiet_lightning(), warnings.catch_warnings():
            # The batches are cut in this process in one step each: workers would only copy them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            show_bar = console is not None and console.is_terminal
            trainer = _make_trainer(run, settings, [report, stop], show_bar=show_bar)
            trainer.fit(task, loaders[0], loaders[1], ckpt_path=run.checkpoint)
    except TrainingStopped:
        begun = "it had begun" if run.checkpoint is None else f"epoch {len(report.records)} of {run.epochs}"
        raise TrainingError(
            f"The training was stopped by {stop.signal.name if stop.signal else 'a signal'} after {begun}.",
            why="No model was made of it; what it has learned up to there is kept.",
            fix="Go on with the same command and --resume.",
        ) from None


def _make_trainer(run: _Run, settings: Settings, callbacks: list[Any], *, show_bar: bool) -> pl.Trainer:
    """Lightning's trainer with the product's checkpoints: the best, the last, and one every few epochs."""
    keep: dict[str, Any] = {"dirpath": run.folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        precision=_precision(),
        max_epochs=run.epochs,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=show_bar,
        default_root_dir=run.folder,
        plugins=[SafetensorsCheckpointIO()],
        callbacks=[
            *callbacks,
            EarlyStopping("val_loss", patience=settings.early_stopping_patience, mode="min"),
            _Checkpoint(filename="best", monitor="val_loss", mode="min", save_top_k=1, **keep),
            _Checkpoint(filename="last", save_top_k=1, **keep),
            _Checkpoint(
                filename="epoch-{epoch}",
                auto_insert_metric_name=False,
                save_top_k=-1,
                every_n_epochs=settings.checkpoint_every_epochs,
                **keep,
            ),
            *([RichProgressBar(leave=False)] if show_bar else []),
        ],
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on hardware and products off the screen while it runs; its warnings pass."""
    logger = logging.getLogger("lightning.pytorch")
    levels = [(each, each.level) for each in (logger, logger.getChild("utilities.rank_zero"))]
    for each, _ in levels:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in levels:
            each.setLevel(level)


def _precision() -> Any:
    """Mixed precision on a GPU, full precision on a CPU, where mixed would be slower."""
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def _best_weights(run: _Run, task: ForecastTask) -> dict[str, Tensor]:
    """Weights of the epoch with the lowest validation loss."""
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(run.folder / BEST_CHECKPOINT)
    prefix = "network."
    weights = {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
    return {key: weights[key] for key in task.network.state_dict()}


def judge_quality(records: list[EpochRecord]) -> dict[str, Any]:
    """Quality gate: the training loss fell, and the validation loss is below 1.5 times the training loss."""
    best = min(records, key=lambda record: record.val_loss)
    failures = []
    if len(records) > 1 and records[-1].train_loss >= records[0].train_loss:
        failures.append(f"the training loss did not fall ({records[0].train_loss:.4f} to {records[-1].train_loss:.4f})")
    ratio = best.val_loss / best.train_loss
    if ratio >= MAX_LOSS_RATIO:
        failures.append(f"the validation loss is {ratio:.2f} times the training loss, {MAX_LOSS_RATIO} are allowed")
    return {"validation_to_training_loss": round(ratio, 4), "failures": failures}


@torch.no_grad()
def validation_scores(network: Any, validation: WindowBatches) -> dict[str, Any]:
    """Scores of the median and the served interval on the validation windows, beside two naive forecasts.

    Returns
    -------
    dict
        Per metric: mean absolute errors in the metric's unit of the median (`mae`), of the last value
        (`mae_last_value`) and of the value a day before (`mae_seasonal_naive`), all on the same steps; `coverage` of
        p10 to p90; and per horizon the MAE at exactly that step. None where there is nothing to compare.
    """
    spec = validation.spec
    low, middle, high = (spec.quantiles.index(q) for q in (0.1, 0.5, 0.9))
    rows: list[Tensor] = []
    for windows in validation:
        forecast = windows.scale.units(forecast_scaled(network, windows))
        truth = windows.scale.units(windows.labels[..., None])[..., 0]
        last, day_ago = windows.naive
        inside = ((truth >= forecast[..., low]) & (truth <= forecast[..., high])).to(truth)
        errors = [(each - truth).abs() for each in (forecast[..., middle], last, day_ago)]
        rows.append(torch.stack([*errors, inside], dim=-1))
    scores = torch.cat(rows)  # (windows, horizon, n_metrics, 4)
    comparable = torch.isfinite(scores[..., :3]).all(dim=-1)
    result: dict[str, Any] = {"windows": len(scores)}
    for k, column in enumerate(METRIC_COLUMNS):
        kept = scores[:, :, k][comparable[:, :, k]]
        if len(kept) == 0:
            result[column] = None
            continue
        means = [round(float(value), 4) for value in kept.mean(dim=0)]
        result[column] = dict(zip(("mae", "mae_last_value", "mae_seasonal_naive", "coverage"), means, strict=True))
        at = {label: scores[:, step - 1, k, 0][comparable[:, step - 1, k]] for label, step in HORIZONS.items()}
        result[column]["mae_at"] = {
            label: round(float(errors.mean()), 4) if len(errors) else None for label, errors in at.items()
        }
    return result


if __name__ == "__main__":
    from main import run_command

    run_command("train")
