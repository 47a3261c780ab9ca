"""How contract rows become model tensors: the same code for training and serving.

`FleetGrid` (fleet_grid.py) → `gather_windows` (a batch of windows, each with its own scale, as the network's input) →
the network → `Scale.units` (back to the metrics' units). Anything that turns measurements into numbers for the model
lives here and nowhere else, because train/serve skew is the bug this product was born from.
Knows nothing of HTTP or Lightning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_contract import (
    HORIZON_STEPS,
    METRICS,
    VALID_PROFILES,
    VALID_STATES,
)
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid
from model_inputs import OBSERVED_REALS, REALS

# At least p02, the nine deciles and p98; the median must be in the middle (see tft_model.ordered_quantiles).
QUANTILES: tuple[float, ...] = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)

# Steps whose median is the recent level, the first of the ANCHORS: half an hour.
RECENT_STEPS = 6

# Weight of the fleet's typical spread against a window's own, in observed steps: one hour. A server that was heard of
# only minutes ago gets a usable scale, and one that never moves does not get a scale of zero.
PRIOR_STEPS = 12
_SMALLEST_SCALE = 1e-3  # in the metric's unit; for metrics that no server of the training data reports
_LARGEST_SCALED = 12.0  # |asinh| beyond which a value is an outlier of 80,000 spreads

_UPPER = torch.tensor([np.inf if metric.upper is None else metric.upper for metric in METRICS])
_LOWER = torch.tensor([metric.lower for metric in METRICS])
_IS_PERCENT = torch.tensor([metric.is_percent for metric in METRICS])


@dataclass(frozen=True)
class FeatureSpec:
    """All that is needed to build the same inputs again; saved in a model's `config.json`.

    Attributes
    ----------
    encoder_steps : int
        Steps of history that the network reads.
    server_ids : tuple of str
        Ids (of `ServerEncoder`) that the network has seen, sorted; category k + 1 is `server_ids[k]`, 0 is unknown.
    prior_scale : tuple of float
        Typical spread of each metric over the training servers, in its unit.
    """

    encoder_steps: int
    server_ids: tuple[str, ...]
    prior_scale: tuple[float, ...]
    quantiles: tuple[float, ...] = QUANTILES
    profiles: tuple[str, ...] = VALID_PROFILES
    states: tuple[str, ...] = VALID_STATES
    _id_category: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._id_category.update({server_id: k + 1 for k, server_id in enumerate(self.server_ids)})

    @property
    def history_steps(self) -> int:
        """Steps before the origin that can influence a forecast: a day for the scale, a day more for the lags."""
        return DAY_STEPS + self.encoder_steps

    def server_category(self, server_id: str | None) -> int:
        """Category of a server id; 0, the NaN category, for a server that training has not seen."""
        return 0 if server_id is None else self._id_category.get(server_id, 0)

    def profile_category(self, profile: str) -> int:
        """Category of a profile; 0 for one that the model does not know."""
        return self.profiles.index(profile) + 1 if profile in self.profiles else 0

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "encoder_steps": self.encoder_steps,
            "server_ids": list(self.server_ids),
            "prior_scale": list(self.prior_scale),
            "quantiles": list(self.quantiles),
            "profiles": list(self.profiles),
            "states": list(self.states),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FeatureSpec:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else."""
        return cls(
            encoder_steps=int(content["encoder_steps"]),
            server_ids=tuple(str(server_id) for server_id in content["server_ids"]),
            prior_scale=tuple(float(scale) for scale in content["prior_scale"]),
            quantiles=tuple(float(quantile) for quantile in content["quantiles"]),
            profiles=tuple(str(profile) for profile in content["profiles"]),
            states=tuple(str(state) for state in content["states"]),
        )


@dataclass(frozen=True)
class FleetTensors:
    """A grid as tensors, padded so that every window can be gathered without a bounds check.

    Attributes
    ----------
    values : Tensor, (n_servers, history + n_steps + horizon, n_metrics)
        NaN where nothing was measured and in the padding.
    state : Tensor of int64, (n_servers, history + n_steps + horizon)
        Category: 0 for none, k + 1 for `VALID_STATES[k]`.
    server, profile : Tensor of int64, (n_servers,)
        Categories of the two static variables.
    first_step : int
        Step since 1970 of the first unpadded column.
    """

    values: Tensor
    state: Tensor
    server: Tensor
    profile: Tensor
    first_step: int

    @classmethod
    def from_grid(cls, grid: FleetGrid, spec: FeatureSpec, server_ids: Sequence[str | None]) -> FleetTensors:
        """Categories and padding; `server_ids` holds the id of each server, None for those unknown to the mapping."""
        before, after = spec.history_steps, HORIZON_STEPS
        shape = (grid.n_servers, before + grid.n_steps + after)
        values = torch.full((*shape, N_METRICS), float("nan"))
        values[:, before : before + grid.n_steps] = torch.from_numpy(np.ascontiguousarray(grid.values))
        state = torch.zeros(shape, dtype=torch.int8)
        state[:, before : before + grid.n_steps] = torch.from_numpy(np.ascontiguousarray(grid.states)) + 1
        return cls(
            values=values,
            state=state,
            server=torch.tensor([spec.server_category(server_id) for server_id in server_ids], dtype=torch.int64),
            profile=torch.tensor([spec.profile_category(profile) for profile in grid.profiles], dtype=torch.int64),
            first_step=grid.first_step,
        )


@dataclass(frozen=True)
class Scale:
    """What brings scaled values of a batch of windows back to units; both (batch, n_metrics)."""

    center: Tensor
    spread: Tensor

    def scaled(self, values: Tensor) -> Tensor:
        """`asinh((values - center) / spread)` of (batch, steps, n_metrics); linear near the centre, log for bursts."""
        standard = (values - self.center[:, None]) / self.spread[:, None]
        return torch.asinh(standard).clamp(-_LARGEST_SCALED, _LARGEST_SCALED)

    def units(self, scaled: Tensor) -> Tensor:
        """Inverse of `scaled` for (batch, steps, n_metrics, n_quantiles), held within the metrics' valid ranges.

        Monotone in its argument, so quantiles that do not cross stay uncrossed.
        """
        standard = torch.sinh(scaled.clamp(-_LARGEST_SCALED, _LARGEST_SCALED))
        values = self.center[:, None, :, None] + self.spread[:, None, :, None] * standard
        lower, upper = _LOWER.to(values), _UPPER.to(values)
        return torch.minimum(torch.maximum(values, lower[:, None]), upper[:, None])


@dataclass(frozen=True)
class Windows:
    """A batch of windows.

    Attributes
    ----------
    inputs : dict of Tensor
        The network's input, with the names that pytorch-forecasting gives them.
    scale : Scale
        Scale of each window.
    observed : Tensor of bool, (batch, n_metrics)
        Whether the server reported the metric in the day before the origin: only then there is a forecast.
    labels : Tensor, (batch, horizon, n_metrics)
        Scaled true values, NaN where unknown.
    past : Tensor, (batch, history, n_metrics)
        What was measured before the origin, in units; NaN where nothing was.
    anchors : Tensor, (batch, horizon, n_metrics, len(ANCHORS))
        Scaled naive forecasts, between which the network chooses where its quantiles start from.
    """

    inputs: dict[str, Tensor]
    scale: Scale
    observed: Tensor
    labels: Tensor
    past: Tensor
    anchors: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same batch on another device."""
        return Windows(
            {name: tensor.to(device) for name, tensor in self.inputs.items()},
            Scale(self.scale.center.to(device), self.scale.spread.to(device)),
            self.observed.to(device),
            self.labels.to(device),
            self.past.to(device),
            self.anchors.to(device),
        )

    @property
    def naive(self) -> tuple[Tensor, Tensor]:
        """Two forecasts to compare with: the last value seen, and the value a day before.

        Both (batch, horizon, n_metrics), in units; NaN where the past holds no such value.
        """
        day_ago = self.past[:, self.past.size(1) - DAY_STEPS :][:, :HORIZON_STEPS]
        return _last_seen(self.past)[:, None].expand(-1, HORIZON_STEPS, -1), day_ago


@dataclass(frozen=True)
class Augmentation:
    """Which inputs are hidden from the network in part of the training windows, so that it learns to do without.

    Each is the share of windows in which the server's id, its profile, its state, or most of its history is unknown.
    Without the first, the embedding of the unknown server would stay as it was initialised.
    """

    unknown_server: float = 0.2
    unknown_profile: float = 0.05
    unknown_state: float = 0.1
    short_history: float = 0.15


def gather_windows(
    fleet: FleetTensors,
    servers: Tensor,
    origins: Tensor,
    spec: FeatureSpec,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
) -> Windows:
    """Cut windows out of a fleet and turn them into the network's input, in one step for the whole batch.

    Parameters
    ----------
    fleet : FleetTensors
        Where from.
    servers, origins : Tensor of int64, (batch,)
        Position of the server, and column (of the unpadded grid) of the first forecast step.
    augmentation, generator : optional
        For training: which inputs to hide, and the source of randomness.
    """
    batch = len(servers)
    history, encoder = spec.history_steps, spec.encoder_steps
    columns = origins[:, None] + torch.arange(history + HORIZON_STEPS)  # padding shifts by `history`
    window = fleet.values[servers[:, None], columns]  # (batch, history + horizon, n_metrics)
    server, profile = fleet.server[servers], fleet.profile[servers]
    state = fleet.state[servers[:, None], columns[:, history - encoder : history]].long()

    past = window[:, :history]
    if augmentation is not None:
        hidden = torch.rand((4, batch), generator=generator)
        server = torch.where(hidden[0] < augmentation.unknown_server, 0, server)
        profile = torch.where(hidden[1] < augmentation.unknown_profile, 0, profile)
        state = torch.where((hidden[2] < augmentation.unknown_state)[:, None], 0, state)
        # Log-uniform, because it is the first minutes of a new server that differ most from a whole history.
        kept = torch.exp(torch.rand((batch, 1), generator=generator) * np.log(encoder)).round()
        forget = (hidden[3] < augmentation.short_history)[:, None] & (torch.arange(history) < history - kept)
        past = past.masked_fill(forget[..., None], float("nan"))
        state = state.masked_fill(forget[:, -encoder:], 0)

    scale, n_observed = _window_scale(past[:, -DAY_STEPS:], spec)
    scaled = scale.scaled(past)
    missing = torch.isnan(scaled)
    values = scaled.masked_fill(missing, 0.0)

    # Values of the day before: of encoder steps and, as the horizon is shorter than a day, of all decoder steps.
    lagged = slice(history - encoder - DAY_STEPS, history - DAY_STEPS + HORIZON_STEPS)
    day_ago, day_ago_missing = values[:, lagged], missing[:, lagged].all(dim=-1, keepdim=True)
    steps = fleet.first_step + origins[:, None] + torch.arange(-encoder, HORIZON_STEPS)
    relative = (torch.arange(-encoder, HORIZON_STEPS) / HORIZON_STEPS).expand(batch, -1)
    known = torch.cat([_calendar(steps), relative[..., None], day_ago, day_ago_missing.to(values)], dim=-1)

    recent = slice(history - encoder, history)
    observed_reals = torch.cat([values[:, recent], missing[:, recent].to(values)], dim=-1)
    static = torch.cat([_level(scale.center), torch.log(scale.spread) / 3, n_observed / DAY_STEPS], dim=-1)[:, None]
    static_categories = torch.stack([profile, server], dim=-1)[:, None]  # (batch, 1, 2)
    future = torch.zeros(batch, HORIZON_STEPS, len(OBSERVED_REALS))
    inputs = {
        "encoder_cont": torch.cat([static.expand(-1, encoder, -1), observed_reals, known[:, :encoder]], dim=-1),
        "decoder_cont": torch.cat([static.expand(-1, HORIZON_STEPS, -1), future, known[:, encoder:]], dim=-1),
        "encoder_cat": torch.cat([static_categories.expand(-1, encoder, -1), state[..., None]], dim=-1),
        "decoder_cat": torch.cat(
            [static_categories.expand(-1, HORIZON_STEPS, -1), torch.zeros(batch, HORIZON_STEPS, 1, dtype=torch.int64)],
            dim=-1,
        ),
        "encoder_lengths": torch.full((batch,), encoder),
        "decoder_lengths": torch.full((batch,), HORIZON_STEPS),
    }
    labels = scale.scaled(window[:, history:])
    return Windows(inputs, scale, n_observed > 0, labels, past, _anchors(past, scale, day_ago[:, encoder:]))


def _window_scale(day: Tensor, spec: FeatureSpec) -> tuple[Scale, Tensor]:
    """Median and mean absolute deviation of the day before the origin, drawn towards the fleet's typical spread.

    Parameters
    ----------
    day : Tensor, (batch, DAY_STEPS, n_metrics)

    Returns
    -------
    Scale, and the number of observed steps, (batch, n_metrics).
    """
    n_observed = torch.isfinite(day).sum(dim=1).to(day)
    center = torch.nan_to_num(torch.nanmedian(day, dim=1).values)
    deviation = torch.nan_to_num((day - center[:, None]).abs()).sum(dim=1)  # mean × n_observed
    prior = torch.tensor(spec.prior_scale, dtype=day.dtype)
    spread = (deviation + PRIOR_STEPS * prior) / (n_observed + PRIOR_STEPS)
    return Scale(center, spread.clamp_min(_SMALLEST_SCALE)), n_observed


def _last_seen(past: Tensor) -> Tensor:
    """Newest value of (batch, steps, n_metrics) that is there, (batch, n_metrics); NaN if there is none."""
    position = torch.arange(1, past.size(1) + 1, device=past.device)[:, None] * torch.isfinite(past)
    newest = position.max(dim=1, keepdim=True).values  # 0 where nothing was ever seen
    return torch.gather(past, 1, (newest - 1).clamp_min(0)).masked_fill(newest == 0, float("nan"))[:, 0]


def _anchors(past: Tensor, scale: Scale, day_ago: Tensor) -> Tensor:
    """Naive forecasts in scaled space, in the order of `ANCHORS`; the window's median where one is not known.

    Real servers are often best forecast by "same as now", generated and busy ones by the day before. A network that
    has to learn such a level from its inputs needs many more windows than one that only has to weigh them.
    """
    recent = torch.nanmedian(past[:, -RECENT_STEPS:], dim=1).values
    recent = torch.where(torch.isfinite(recent), recent, _last_seen(past))
    recent = torch.nan_to_num(scale.scaled(recent[:, None])).expand_as(day_ago)
    return torch.stack([recent, day_ago, torch.zeros_like(day_ago)], dim=-1)


def _level(center: Tensor) -> Tensor:
    """Centres as inputs of ordinary size, so that the network knows how far from 0 and 100 % a window lies."""
    return torch.where(_IS_PERCENT, center / 50 - 1, torch.log1p(center.clamp_min(0)) / 4)


def _calendar(steps: Tensor) -> Tensor:
    """Time of day and week (UTC) of step indices, (…, len(CALENDAR))."""
    day = (steps % DAY_STEPS).float() / DAY_STEPS * (2 * torch.pi)
    weekday = (steps // DAY_STEPS + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    week = (weekday + (steps % DAY_STEPS) / DAY_STEPS) / 7 * (2 * torch.pi)
    return torch.stack(
        [torch.sin(day), torch.cos(day), torch.sin(week), torch.cos(week), (weekday >= 5).float()], dim=-1
    )


def typical_spread(grid: FleetGrid) -> tuple[float, ...]:
    """Median over servers of each metric's mean absolute deviation within days, in its unit; 0 if never reported."""
    days = grid.n_steps // DAY_STEPS
    if days:
        values = grid.values[:, -days * DAY_STEPS :].reshape(grid.n_servers * days, DAY_STEPS, N_METRICS)
    else:
        values = grid.values
    result = []
    for k in range(N_METRICS):
        day = values[..., k]
        day = day[np.isfinite(day).any(axis=1)]
        if len(day) == 0:
            result.append(0.0)
            continue
        center = np.nanmedian(day, axis=1, keepdims=True)
        result.append(float(np.median(np.nanmean(np.abs(day - center), axis=1))))
    return tuple(result)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 99, (1, 3 * DAY_STEPS, N_METRICS)).astype(np.float32)
    grid = FleetGrid(("ppweb001",), ("web_api",), 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    spec = FeatureSpec(72, ("1",), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ["1"])
    windows = gather_windows(fleet, torch.tensor([0, 0]), torch.tensor([400, grid.n_steps - HORIZON_STEPS]), spec)
    assert windows.inputs["encoder_cont"].shape == (2, 72, len(REALS))
    back = windows.scale.units(windows.labels[..., None])[..., 0]
    assert np.allclose(back[0], values[0, 400 : 400 + HORIZON_STEPS], rtol=1e-3, atol=1e-3)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
