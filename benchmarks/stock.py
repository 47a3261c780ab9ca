"""The other side of comparisons: pytorch-forecasting's own pipeline for the same fleet, network, batches and windows.

In good faith, as its documentation recommends: a `TimeSeriesDataSet` with a scale per window, its loader (with or
without worker processes, whichever is faster), its `TemporalFusionTransformer` and Lightning's trainer. The network
is of our size and reads as many variables as ours (`model_inputs.py`): 12 static, 8 observed and 11 known real ones,
and three categorical ones.

- Values of the day before are its own `lags`: only those does it bring to the window's scale.
- `MultiLoss` weighs each metric by the inverse of its spread; otherwise the metric in the largest unit is learned
  alone.
- No server is scaled by group, so the `NaNLabelEncoder` of the group id cannot shift any scale by one server.
- To forecast, rows for the future are added: with `predict=True` the last 96 rows of a frame become the decoder.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.data import EncoderNormalizer, MultiNormalizer, NaNLabelEncoder
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from data_contract import HORIZON_STEPS, METRIC_COLUMNS, VALID_STATES
from fleet_grid import DAY_STEPS, FleetGrid
from model_inputs import CALENDAR, Layout
from tft_features import QUANTILES
from tft_model import NetworkConfig

ENCODER_STEPS = 72
# What the library can read, step by step.
LAYOUT = Layout(pieces=((ENCODER_STEPS, 1),), patch=1, lag_days=(1,), cycles=False)
HISTORY_STEPS = ENCODER_STEPS + DAY_STEPS  # that a forecast needs
BATCH = 128

_MISSING = [f"{column}_missing" for column in METRIC_COLUMNS]
_OBSERVED = [f"{column}_observed" for column in METRIC_COLUMNS]
_SERVER = "server_id"
_TIME = "time_idx"


@dataclass(frozen=True)
class StockSettings:
    """What its user chooses; the defaults are the best that a search on other windows of the validation period found.

    Losses as in `bench_training.py`, (scaled, in spreads), after epochs of 5,120 windows:

    - two epochs, no transformation, gradients clipped to 1: learning rate 0.001 (.235, .403), 0.003 (.226, .381),
      0.01 (.224, .367), 0.03 (.223, .367);
    - two epochs, 0.003: clipped to 0.1 (.225, .378), scale of quantiles `robust` (.224, .404), `relu` (.228, .375),
      `log1p` (.855, .431);
    - three epochs, clipped to 0.1: 0.01 (.219, .363), 0.03 (.219, .366), 0.01 with `relu` (.221, .351).
    """

    learning_rate: float = 1e-2
    gradient_clip: float = 0.1
    optimizer: str = "adam"
    method: str = "standard"
    transformation: str | None = "relu"  # its own choice for metrics that are never negative


def stock_frame(grid: FleetGrid, *, future: bool = False) -> pd.DataFrame:
    """One row per server and step, sorted, with the features that the library does not make itself.

    Parameters
    ----------
    future : bool
        Add the 96 steps after the grid, in which only the calendar is known; what else there must be is the last row's.
    """
    extra = HORIZON_STEPS if future else 0
    shape = (grid.n_servers, grid.n_steps + extra)
    measured = np.isfinite(grid.values)
    values = np.full((*shape, len(METRIC_COLUMNS)), np.nan, dtype=np.float32)
    values[:, : grid.n_steps] = grid.values
    values = _filled(values)
    states = np.concatenate([grid.states, np.repeat(grid.states[:, -1:], extra, axis=1)], axis=1)

    steps = grid.first_step + np.arange(shape[1])
    of_day = steps % DAY_STEPS / DAY_STEPS * 2 * np.pi
    weekday = (steps // DAY_STEPS + 3) % 7
    of_week = (weekday + steps % DAY_STEPS / DAY_STEPS) / 7 * 2 * np.pi
    calendar = (np.sin(of_day), np.cos(of_day), np.sin(of_week), np.cos(of_week), weekday >= 5)

    def per_step(row: Any) -> npt.NDArray[np.float32]:
        return np.tile(np.asarray(row, dtype=np.float32), shape[0])

    def per_server(words: Any) -> pd.Categorical:
        categories, codes = np.unique(np.asarray(words, dtype=object), return_inverse=True)
        return pd.Categorical.from_codes(np.repeat(codes, shape[1]), categories=list(categories))

    columns: dict[str, Any] = {
        _TIME: np.tile(np.arange(shape[1]), shape[0]),
        _SERVER: per_server(grid.names),
        "profile": per_server(grid.profiles),
        "state": pd.Categorical.from_codes(states.reshape(-1) % (len(VALID_STATES) + 1), [*VALID_STATES, "none"]),
        **{name: per_step(row) for name, row in zip(CALENDAR, calendar, strict=True)},
    }
    padded = np.zeros((*shape, len(METRIC_COLUMNS)), dtype=bool)
    padded[:, : grid.n_steps] = measured
    # The library reads static variables at a window's first step: the share of the day before the window's origin.
    seen = np.zeros((shape[0], shape[1] + 1, len(METRIC_COLUMNS)))
    np.cumsum(padded, axis=1, out=seen[:, 1:])
    origin = np.minimum(np.arange(shape[1]) + ENCODER_STEPS, shape[1])
    share = (seen[:, origin] - seen[:, np.maximum(origin - DAY_STEPS, 0)]) / DAY_STEPS
    for k, column in enumerate(METRIC_COLUMNS):
        columns[column] = values[..., k].reshape(-1)
        columns[_MISSING[k]] = (~padded[..., k]).astype(np.float32).reshape(-1)
        columns[_OBSERVED[k]] = share[..., k].astype(np.float32).reshape(-1)
    day_ago = np.roll(padded.any(axis=-1), DAY_STEPS, axis=1)
    day_ago[:, :DAY_STEPS] = False
    columns["1d_ago_missing"] = (~day_ago).astype(np.float32).reshape(-1)
    return pd.DataFrame(columns)


def _filled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The library takes no missing values: the last one seen stands, 0 before the first."""
    known = np.isfinite(values)
    position = np.maximum.accumulate(np.where(known, np.arange(values.shape[1])[:, None], 0), axis=1)
    return np.nan_to_num(np.take_along_axis(values, position, axis=1))


def stock_dataset(frame: pd.DataFrame, settings: StockSettings) -> TimeSeriesDataSet:
    """Data set of every window that the frame holds."""
    with quiet():
        return TimeSeriesDataSet(
            frame,
            time_idx=_TIME,
            target=list(METRIC_COLUMNS),
            group_ids=[_SERVER],
            max_encoder_length=ENCODER_STEPS,
            max_prediction_length=HORIZON_STEPS,
            static_categoricals=["profile", _SERVER],
            static_reals=list(_OBSERVED),
            time_varying_unknown_categoricals=["state"],
            time_varying_unknown_reals=[*METRIC_COLUMNS, *_MISSING],
            time_varying_known_reals=[*CALENDAR, "1d_ago_missing"],
            lags={column: [DAY_STEPS] for column in METRIC_COLUMNS},
            add_relative_time_idx=True,
            add_target_scales=True,
            target_normalizer=MultiNormalizer(
                [EncoderNormalizer(settings.method, transformation=settings.transformation) for _ in METRIC_COLUMNS]
            ),
            categorical_encoders={name: NaNLabelEncoder(add_nan=True) for name in ("profile", _SERVER, "state")},
        )


def stock_network(
    dataset: TimeSeriesDataSet, spreads: tuple[float, ...], config: NetworkConfig, settings: StockSettings
) -> TemporalFusionTransformer:
    """Its network at the size of ours, with fresh random weights."""
    weights = [1 / spread for spread in spreads]
    known, unknown = dataset._time_varying_known_reals, dataset._time_varying_unknown_reals
    now = [name for name in known if "_lagged_by_" not in name and not name.endswith("d_ago_missing")]
    sizes = {"profile": 4, _SERVER: 8, "state": 4}
    with quiet():
        return TemporalFusionTransformer.from_dataset(
            dataset,
            hidden_size=config.hidden_size,
            lstm_layers=config.lstm_layers,
            time_varying_reals_encoder=[*unknown, *now],  # as ours: what was the day before helps the decoder alone
            attention_head_size=config.attention_heads,
            hidden_continuous_size=config.hidden_continuous_size,
            dropout=config.dropout,
            embedding_sizes={
                name: (len(dataset._categorical_encoders[name].classes_), size) for name, size in sizes.items()
            },
            output_size=[len(QUANTILES)] * len(METRIC_COLUMNS),
            loss=MultiLoss([QuantileLoss(list(QUANTILES)) for _ in METRIC_COLUMNS], weights=weights),
            logging_metrics=nn.ModuleList(),
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
        )


def stock_loader(dataset: TimeSeriesDataSet, windows: int, batch: int, workers: int) -> DataLoader[Any]:
    """Training batches: so many windows per epoch, drawn anew."""
    return dataset.to_dataloader(
        train=True,
        batch_size=batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        sampler=RandomSampler(dataset, num_samples=windows),
        shuffle=False,
    )


def stock_trainer(settings: StockSettings, epochs: int, callbacks: list[Any] | None = None) -> pl.Trainer:
    """Lightning's trainer with nothing in it that takes time."""
    return pl.Trainer(
        max_epochs=epochs,
        devices=1,
        gradient_clip_val=settings.gradient_clip,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def stock_fit(
    network: TemporalFusionTransformer, loader: DataLoader[Any], settings: StockSettings, epochs: int, *callbacks: Any
) -> float:
    """Seconds of a training."""
    with quiet():
        trainer = stock_trainer(settings, epochs, list(callbacks))
        started = time.perf_counter()
        trainer.fit(network, loader)
    return time.perf_counter() - started


def chosen_windows(
    training: TimeSeriesDataSet, frame: pd.DataFrame, servers: npt.NDArray[np.int64], origins: npt.NDArray[np.int64]
) -> tuple[TimeSeriesDataSet, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Data set of these windows only, and their servers and origins in its own order.

    Parameters
    ----------
    frame : DataFrame
        Of `stock_frame`, whole.
    servers, origins : int64 arrays, (n_windows,)
        Position of the server, and step of the frame at which the horizon begins.
    """
    names = frame[_SERVER].cat.categories
    first = int(origins.min()) - HISTORY_STEPS
    wanted = set(zip(servers.tolist(), origins.tolist(), strict=True))
    with quiet():
        every = TimeSeriesDataSet.from_dataset(training, frame[frame[_TIME] >= first], stop_randomization=True)
    index = every.decoded_index
    position = names.get_indexer(index[_SERVER])
    begin = index["time_idx_first_prediction"].to_numpy()
    kept = np.array([pair in wanted for pair in zip(position.tolist(), begin.tolist(), strict=True)])
    every.index = every.index[kept]
    return every, position[kept].astype(np.int64), begin[kept].astype(np.int64)


@torch.no_grad()
def stock_quantiles(network: TemporalFusionTransformer, dataset: TimeSeriesDataSet) -> tuple[Tensor, Tensor]:
    """Forecasts and truth of a data set in its order, in units: (windows, 96, metrics[, quantiles])."""
    training = network.training
    network.eval()
    forecasts, truths = [], []
    with quiet():
        for x, (y, _) in dataset.to_dataloader(train=False, batch_size=256):
            forecasts.append(torch.stack(network(x).prediction, dim=2))
            truths.append(torch.stack(y, dim=2))
    network.train(training)
    return torch.cat(forecasts), torch.cat(truths)


def future_windows(training: TimeSeriesDataSet, frame: pd.DataFrame) -> TimeSeriesDataSet:
    """One window per server, whose decoder is the frame's last 96 rows."""
    with quiet():
        return TimeSeriesDataSet.from_dataset(training, frame, predict=True, stop_randomization=True)


def stock_predict(network: TemporalFusionTransformer, training: TimeSeriesDataSet, frame: pd.DataFrame) -> list[Tensor]:
    """Forecast every server of a frame that ends with the future (see `stock_frame`); one tensor per metric."""
    with quiet():
        dataset = future_windows(training, frame)
        loader = dataset.to_dataloader(train=False, batch_size=BATCH)
        result: list[Tensor] = network.predict(loader, mode="quantiles", trainer_kwargs={"logger": False})
    return result


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's and Lightning's notes, which mean the data and hardware chosen here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
