"""How a model folder and a history become forecasts: plain Python, for the daemon, the command line and the notebook.

    forecaster = Forecaster.load("models/latest")
    forecast = forecaster.predict(history)        # a frame of contract rows
    forecast.at(0.5)                              # medians, (n_servers, 96, 4)

What the forecasts mean (risk, alerts, the owner's format) is `tft_risk.py`'s. Knows nothing of HTTP or Streamlit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from breach_reader import RECENT_STEPS
from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from fleet_grid import N_METRICS, FleetGrid, time_of
from forecast import Forecast
from forecast_explanation import ForecastWeights
from model_folder import LoadedModel, load_model
from risk_calibration import RiskCalibration
from tft_features import FleetTensors, gather_windows, middles
from tft_model import by_step, forecast_scaled

_BATCH = 128  # servers per forward pass: enough to fill the cores; with 512, a server takes a quarter longer


@dataclass(frozen=True)
class ModelInfo:
    """What people ask of a model.

    Attributes
    ----------
    name : str
        Of its folder, `tft_model_YYYYMMDD_HHMMSS`.
    known_servers : int
        Servers that it was trained on; others are forecast as unknown ones.
    validation : dict or None
        Scores on the validation period, as in `training_info.json`.
    """

    name: str
    model_version: str
    contract_version: str
    trained_at: str
    known_servers: int
    profiles: tuple[str, ...]
    validation: dict[str, Any] | None


class Forecaster:
    """A loaded model. Thread-safe: forecasting changes nothing in it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        info = model.info
        self.info = ModelInfo(
            name=model.name,
            model_version=str(info["model_version"]),
            contract_version=str(info["contract_version"]),
            trained_at=str(info.get("created_at", "")),
            known_servers=len(model.encoder),
            profiles=tuple(info["profiles"]),
            validation=info.get("validation"),
        )

    @classmethod
    def load(cls, model_dir: str | os.PathLike[str]) -> Forecaster:
        """Read and check a model folder.

        Raises
        ------
        ModelFolderError
            If anything in the folder is missing, damaged or made for another contract.
        """
        return cls(load_model(model_dir))

    @property
    def calibration(self) -> RiskCalibration | None:
        """How the model's risk is to be read; None if it brings none, and its risk is as the quantiles say."""
        return self._model.calibration

    @property
    def history_steps(self) -> int:
        """Steps of 5 minutes before the origin that can influence a forecast."""
        return self._model.spec.history_steps

    def predict(self, history: pd.DataFrame) -> Forecast:
        """Forecast every server of a history, from its newest step on.

        Parameters
        ----------
        history : DataFrame
            Valid contract rows (see `data_validator.load_valid_frame`), in any order. The newest 7 days count.

        Returns
        -------
        Forecast

        Raises
        ------
        ContractError
            If there are no rows.
        """
        return self.predict_grid(FleetGrid.from_frame(history))

    def predict_grid(self, grid: FleetGrid) -> Forecast:
        """Forecast every server of a grid, from the grid's end on.

        A metric that a server did not report in the day before the origin is not forecast: its values are NaN.
        """
        spec = self._model.spec
        grid = grid.since(grid.origin_step - spec.history_steps)
        ids = [self._model.encoder.encode(name) if name in self._model.encoder else None for name in grid.names]
        fleet = FleetTensors.from_grid(grid, spec, ids)
        values = np.empty((grid.n_servers, HORIZON_STEPS, N_METRICS, len(spec.quantiles)), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, grid.n_servers, _BATCH):
                servers = torch.arange(start, min(start + _BATCH, grid.n_servers))
                windows = gather_windows(fleet, servers, torch.full_like(servers, grid.n_steps), spec)
                forecast = windows.scale.units(forecast_scaled(self._model.network, windows, spec.calibration))
                forecast.masked_fill_(~windows.observed[:, None, :, None], float("nan"))
                values[start : start + len(servers)] = forecast.numpy()
        return Forecast(
            server_names=grid.names,
            profiles=grid.profiles,
            known=np.array([server_id is not None for server_id in ids], dtype=np.bool_),
            origin=time_of(grid.origin_step - 1),
            values=values,
            quantiles=spec.quantiles,
            calibration=self._model.calibration,
            recent=grid.values[:, -RECENT_STEPS:].copy(),
        )

    def explain_grid(self, grid: FleetGrid, server: int) -> ForecastWeights:
        """What the network weighs in the forecast that `predict_grid` makes of one server of a grid, by its place.

        `forecast_explanation.explain` makes of it what a person reads.
        """
        spec, network = self._model.spec, self._model.network
        grid = grid.select([server]).since(grid.origin_step - spec.history_steps)
        name = grid.names[0]
        known = name in self._model.encoder
        fleet = FleetTensors.from_grid(grid, spec, [self._model.encoder.encode(name) if known else None])
        with torch.inference_mode():
            windows = gather_windows(fleet, torch.tensor([0]), torch.tensor([grid.n_steps]), spec)
            found = network(windows.inputs)
            raw = by_step(torch.stack(found["prediction"], dim=2), HORIZON_STEPS)[0]
            shares = torch.softmax(raw[..., -len(spec.layout.anchors) :], dim=-1)
            attention = torch.cat([found["encoder_attention"][0], found["decoder_attention"][0]], dim=-1)
        missing = [spec.layout.reals.index(f"{column}_missing") for column in METRIC_COLUMNS]
        static_names = list(network.static_variable_selection.input_sizes)
        return ForecastWeights(
            known=known,
            static=dict(zip(static_names, found["static_variables"].flatten().tolist(), strict=True)),
            past_names=tuple(network.encoder_variable_selection.input_sizes),
            past=found["encoder_variables"][0, :, 0].numpy(),
            future_names=tuple(network.decoder_variable_selection.input_sizes),
            future=found["decoder_variables"][0, :, 0].numpy(),
            attention=attention.mean(dim=1).repeat_interleave(spec.layout.patch, dim=0).numpy(),
            steps_before=torch.ceil(-middles(spec.layout)).to(torch.int64).numpy(),
            measured=(windows.inputs["encoder_cont"][0][:, missing] < 1).numpy(),
            anchor_names=spec.layout.anchors,
            anchors=shares.numpy(),
            observed=windows.observed[0].numpy(),
        )
