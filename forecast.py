"""What a forecast is: arrays with names. NumPy only, so that who reads forecasts need not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from data_contract import HORIZON_STEPS, STEP_MINUTES
from risk_calibration import RiskCalibration


@dataclass(frozen=True)
class Forecast:
    """Forecasts of a fleet, all from the same origin.

    Attributes
    ----------
    server_names, profiles : tuple of str
        One per server.
    known : bool array, (n_servers,)
        Whether the model was trained on the server.
    origin : datetime
        Start of the last step that was used, UTC. Step k of the horizon (counted from 1) is k × 5 minutes later.
    values : float32 array, (n_servers, 96, n_metrics, n_quantiles)
        In the metrics' units; NaN for metrics that a server does not report. Never decreasing along the quantiles.
    quantiles : tuple of float
        Ascending, the median in the middle.
    calibration : RiskCalibration or None
        How the model's risk is to be read; None if the model brings none.
    recent : float32 array, (n_servers, up to 288, n_metrics), or None
        What was measured in the day before the horizon, NaN where nothing was: risk is read off both.
    """

    server_names: tuple[str, ...]
    profiles: tuple[str, ...]
    known: npt.NDArray[np.bool_]
    origin: datetime
    values: npt.NDArray[np.float32]
    quantiles: tuple[float, ...]
    calibration: RiskCalibration | None = None
    recent: npt.NDArray[np.float32] | None = None

    def at(self, quantile: float) -> npt.NDArray[np.float32]:
        """Values of one quantile, (n_servers, 96, n_metrics); selected by value, never by position.

        Raises
        ------
        KeyError
            If the model does not forecast this quantile.
        """
        for k, each in enumerate(self.quantiles):
            if abs(each - quantile) < 1e-9:
                return self.values[..., k]
        raise KeyError(f"quantile {quantile} is not among {self.quantiles}")

    def index(self, server_name: str) -> int:
        """Position of a server; ValueError if it has no forecast."""
        return self.server_names.index(server_name)

    @property
    def times(self) -> list[datetime]:
        """The moments that the 96 steps stand for."""
        return [self.origin + timedelta(minutes=STEP_MINUTES * step) for step in range(1, HORIZON_STEPS + 1)]
