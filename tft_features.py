"""How contract rows become model tensors: the same code for training and serving.

`FleetGrid` (fleet_grid.py) → `gather_windows` (a batch of windows, each with its own scale, as the network's input) →
the network → `Scale.units` (back to the metrics' units). Anything that turns measurements into numbers for the model
lives here and nowhere else, because train/serve skew is the bug this product was born from.
Knows nothing of HTTP or Lightning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from data_contract import (
    DAY_STEPS,
    HORIZON_STEPS,
    METRICS,
    VALID_PROFILES,
    VALID_STATES,
)
from fleet_grid import N_METRICS, FleetGrid
from fleet_spreads import SMALLEST_SPREAD, typical_spread
from model_inputs import Layout
from quantile_calibration import QuantileCalibration
from tft_cycles import CYCLE_STEPS, last_cycle

# At least p02, the nine deciles and p98; the median must be in the middle (see tft_model.ordered_quantiles).
QUANTILES: tuple[float, ...] = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)

# Steps whose median is the recent level, the first of the anchors: half an hour.
RECENT_STEPS = 6

# Weight of the fleet's typical spread against a window's own, in observed steps: 20 minutes. A server that was heard of
# only minutes ago gets a usable scale, and one that never moves does not get a scale of zero.
PRIOR_STEPS = 4
_WEEK_STEPS = 7 * DAY_STEPS
_LARGEST_SCALED = 12.0  # |asinh| beyond which a value is an outlier of 80,000 spreads

_UPPER = torch.tensor([np.inf if metric.upper is None else metric.upper for metric in METRICS])
_LOWER = torch.tensor([metric.lower for metric in METRICS])
_IS_PERCENT = torch.tensor([metric.is_percent for metric in METRICS])


@dataclass(frozen=True)
class FeatureSpec:
    """All that is needed to build the same inputs again; saved in a model's `config.json`.

    Attributes
    ----------
    layout : Layout
        How past and future are cut into the network's positions.
    server_ids : tuple of str
        Ids (of `ServerEncoder`) that the network has seen, sorted; category k + 1 is `server_ids[k]`, 0 is unknown.
    prior_scale : tuple of float
        Typical spread of each metric over the training servers, in its unit.
    calibration : QuantileCalibration, optional
        How far the quantiles really lie from the median; None where nobody has counted.
    """

    layout: Layout
    server_ids: tuple[str, ...]
    prior_scale: tuple[float, ...]
    quantiles: tuple[float, ...] = QUANTILES
    profiles: tuple[str, ...] = VALID_PROFILES
    states: tuple[str, ...] = VALID_STATES
    calibration: QuantileCalibration | None = None
    _id_category: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._id_category.update({server_id: k + 1 for k, server_id in enumerate(self.server_ids)})

    @property
    def history_steps(self) -> int:
        """Steps before the origin that can influence a forecast: the day of the scale, the encoder's, the lags'."""
        cycle = CYCLE_STEPS if self.layout.cycles else 0
        return max(DAY_STEPS * self.layout.lag_days[-1], self.layout.encoder_steps, cycle)

    def server_category(self, server_id: str | None) -> int:
        """Category of a server id; 0, the NaN category, for a server that training has not seen."""
        return 0 if server_id is None else self._id_category.get(server_id, 0)

    def profile_category(self, profile: str) -> int:
        """Category of a profile; 0 for one that the model does not know."""
        return self.profiles.index(profile) + 1 if profile in self.profiles else 0

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **self.layout.as_dict(),
            "server_ids": list(self.server_ids),
            "prior_scale": list(self.prior_scale),
            "quantiles": list(self.quantiles),
            "profiles": list(self.profiles),
            "states": list(self.states),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FeatureSpec:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else."""
        calibration, quantiles = content["calibration"], tuple(float(quantile) for quantile in content["quantiles"])
        return cls(
            layout=Layout.from_dict(content),
            server_ids=tuple(str(server_id) for server_id in content["server_ids"]),
            prior_scale=tuple(float(scale) for scale in content["prior_scale"]),
            quantiles=quantiles,
            profiles=tuple(str(profile) for profile in content["profiles"]),
            states=tuple(str(state) for state in content["states"]),
            calibration=None if calibration is None else QuantileCalibration.from_dict(calibration, len(quantiles)),
        )


@dataclass(frozen=True)
class FleetTensors:
    """A grid as tensors, over the grid's own memory, which may be mapped from files that are larger than the RAM.

    Attributes
    ----------
    values : Tensor, (n_servers, n_steps, n_metrics)
        NaN where nothing was measured.
    states : Tensor of int8, (n_servers, n_steps)
        Place in `VALID_STATES`, -1 for none.
    server, profile : Tensor of int64, (n_servers,)
        Categories of the two static variables.
    first_step : int
        Step since 1970 of the first column.
    """

    values: Tensor
    states: Tensor
    server: Tensor
    profile: Tensor
    first_step: int

    @classmethod
    def from_grid(cls, grid: FleetGrid, spec: FeatureSpec, server_ids: Sequence[str | None]) -> FleetTensors:
        """Categories of each server; `server_ids` holds its id, None for those unknown to the mapping."""
        return cls(
            values=_in_place(grid.values),
            states=_in_place(grid.states),
            server=torch.tensor([spec.server_category(server_id) for server_id in server_ids], dtype=torch.int64),
            profile=torch.tensor([spec.profile_category(profile) for profile in grid.profiles], dtype=torch.int64),
            first_step=grid.first_step,
        )


def _in_place(array: npt.NDArray[Any]) -> Tensor:
    """Tensor over an array's own memory; over a copy where its steps do not lie in rows, as those of our grids do."""
    in_rows = array.strides[1:] == np.empty((1, *array.shape[1:]), array.dtype).strides[1:]
    if not in_rows or array.strides[0] < 0 or array.strides[0] % array.strides[1]:
        array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():  # mapped files are read-only, and nothing here writes to a fleet
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _cut(rows: Tensor, servers: Tensor, columns: Tensor, inside: Tensor | None, nothing: float) -> Tensor:
    """Elements at (server, column) of (n_servers, n_steps, …), for each server a row of columns.

    Selecting from the flat array takes a third of the time of an index with two axes.
    """
    steps = rows.stride(0) // rows.stride(1)  # more than the row holds where the grid is a part of a longer one
    length = (len(rows) - 1) * steps + rows.size(1)
    flat = rows.as_strided((length, *rows.shape[2:]), rows.stride()[1:])
    cut = flat.index_select(0, (servers[:, None] * steps + columns).flatten()).view(*columns.shape, *rows.shape[2:])
    if inside is not None:
        cut.masked_fill_(~inside.view(*inside.shape, *[1] * (cut.dim() - 2)), nothing)
    return cut


@dataclass(frozen=True)
class Scale:
    """What brings scaled values of a batch of windows back to units; both (batch, n_metrics)."""

    center: Tensor
    spread: Tensor

    def scaled(self, values: Tensor) -> Tensor:
        """`asinh((values - center) / spread)` of (batch, steps, n_metrics); linear near the centre, log for bursts."""
        standard = (values - self.center[:, None]).div_(self.spread[:, None]).numpy()
        np.arcsinh(standard, out=standard)  # 25 times as fast as torch's on a CPU, and closer
        return torch.from_numpy(standard).clamp_(-_LARGEST_SCALED, _LARGEST_SCALED)

    def importance(self, usual: Tensor) -> Tensor:
        """What each metric of each window counts in training, (batch, n_metrics): the root of its spread, 1 on average.

        Counted alike, the many servers that stand still would be learned as well as the few busy ones, on whose
        forecasts more depends; counted by the spread itself, the latter alone. `usual` is `mean_root_spread`.
        """
        return self.spread.sqrt() / usual

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
    anchors : Tensor, (batch, horizon, n_metrics, len(layout.anchors))
        Scaled naive forecasts, between which the network chooses where its quantiles start from.
    weight : Tensor, (batch,)
        What the window counts in a mean over batches: 1 where all windows are drawn alike, else how much rarer it is
        among all windows than among those drawn.
    """

    inputs: dict[str, Tensor]
    scale: Scale
    observed: Tensor
    labels: Tensor
    past: Tensor
    anchors: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same batch on another device."""
        return Windows(
            {name: tensor.to(device) for name, tensor in self.inputs.items()},
            Scale(self.scale.center.to(device), self.scale.spread.to(device)),
            self.observed.to(device),
            self.labels.to(device),
            self.past.to(device),
            self.anchors.to(device),
            self.weight.to(device),
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


_STEEPEST = 8.0  # in scaled space; from there on `softened` is a straight line, so that no outlier is all of a loss
_LAST_SLOPE = float(np.cosh(_STEEPEST) / np.sqrt(1 + np.sinh(_STEEPEST)))


def softened(scaled: Tensor) -> Tensor:
    """Scaled values as the loss compares them: 2 · (√(1 + |z|) − 1) with the sign of z, the values in spreads.

    Half-way between the scaled space, in which the height of a burst hardly counts, and units, in which little else
    does. Quantiles are the same in all three, as the function is monotone; what differs is which errors are paid for.
    """
    softer: Tensor = _Softened.apply(scaled)  # type: ignore[no-untyped-call]
    return softer


class _Softened(torch.autograd.Function):
    """`softened` with its slope computed on the way: half the time of what autograd makes of it."""

    @staticmethod
    def forward(ctx: Any, scaled: Tensor) -> Tensor:
        inner = scaled.clamp(-_STEEPEST, _STEEPEST)
        standard = torch.sinh(inner)
        root = standard.abs().add_(1).sqrt_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((standard * standard).add_(1).sqrt_().div_(root))
        softer = root.sub_(1).mul_(2).copysign_(standard)
        return softer.add_(scaled - inner, alpha=_LAST_SLOPE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        passed: Tensor = gradient * slope
        return passed


def gather_windows(
    fleet: FleetTensors,
    servers: Tensor,
    origins: Tensor,
    spec: FeatureSpec,
    augmentation: Augmentation | None = None,
    generator: torch.Generator | None = None,
    *,
    weight: Tensor | None = None,
    part: slice = slice(None),
) -> Windows:
    """Cut windows out of a fleet and turn them into the network's input, in one step for the whole batch.

    Parameters
    ----------
    fleet : FleetTensors
        Where from. Steps before its first and after its last column read as missing.
    servers, origins : Tensor of int64, (batch,)
        Position of the server, and column of the first forecast step.
    augmentation, generator : optional
        For training: which inputs to hide, and the source of randomness.
    weight : Tensor, (batch,), optional
        What each window counts; all alike without.
    part : slice, optional
        Only these windows of the batch are cut, as they would be in the whole: for one of several processes.
    """
    hiding = None if augmentation is None else _Hiding.draw(augmentation, len(servers), spec, generator).part(part)
    weight = (torch.ones(len(servers)) if weight is None else weight)[part]
    servers, origins = servers[part], origins[part]
    batch = len(servers)
    layout, history = spec.layout, spec.history_steps
    columns = origins[:, None] + torch.arange(-history, HORIZON_STEPS)
    within = columns.clamp(0, fleet.values.size(1) - 1)
    inside = None if torch.equal(within, columns) else within == columns
    window = _cut(fleet.values, servers, within, inside, float("nan"))  # (batch, history + horizon, n_metrics)
    server, profile = fleet.server[servers], fleet.profile[servers]
    ends = history + _ends(layout)  # of the encoder's pieces, in steps of the window
    last = ends - 1
    state = _cut(fleet.states, servers, within[:, last], None if inside is None else inside[:, last], -1).long() + 1

    past = window[:, :history]
    if hiding is not None:
        server = server.masked_fill(hiding.server, 0)
        profile = profile.masked_fill(hiding.profile, 0)
        state = state.masked_fill(hiding.state[:, None], 0)
        forget = torch.arange(history) < (history - hiding.kept)[:, None]
        past = past.masked_fill(forget[..., None], float("nan"))
        state = state.masked_fill(forget[:, last], 0)

    scale, n_observed = _window_scale(past[:, -DAY_STEPS:], spec)
    lags, day_ago = _lags(past, scale, layout)
    first = fleet.first_step + origins
    encoder = torch.cat([_pieces(past, scale, layout), _moments(first, middles(layout))], dim=-1)
    patches = torch.arange(0, HORIZON_STEPS, layout.patch)
    static = [_level(scale.center), torch.log(scale.spread) / 3, n_observed / DAY_STEPS]
    ahead, anchors = [_moments(first, patches + (layout.patch - 1) / 2), lags], [day_ago]
    if layout.cycles:
        cycle, strength = last_cycle(scale.scaled(past[:, history - CYCLE_STEPS :]))
        cycle, _ = _masked(cycle)
        static.append(strength)
        ahead += _patches(cycle, layout)
        anchors.append(cycle)
    decoder = torch.cat(ahead, dim=-1)

    reals, lagged = len(layout.reals), len(layout.ahead_reals)
    # What only the decoder or only the encoder has is 0 in the other; what neither has more than once is the static.
    encoder_cont = torch.zeros(batch, layout.encoder_positions, reals)
    decoder_cont = torch.zeros(batch, layout.decoder_positions, reals)
    for cont in (encoder_cont, decoder_cont):
        cont[..., : len(layout.static_reals)] = torch.cat(static, dim=-1)[:, None]
    encoder_cont[..., len(layout.static_reals) : reals - lagged] = encoder
    decoder_cont[..., reals - decoder.size(-1) :] = decoder
    static_categories = torch.stack([profile, server], dim=-1)[:, None]  # (batch, 1, 2)
    encoder_cat = torch.cat([static_categories.expand(-1, layout.encoder_positions, -1), state[..., None]], dim=-1)
    decoder_cat = functional.pad(static_categories.expand(-1, layout.decoder_positions, -1), (0, 1))
    inputs = {
        "encoder_cont": encoder_cont,
        "decoder_cont": decoder_cont,
        "encoder_cat": encoder_cat,
        "decoder_cat": decoder_cat,
        "encoder_lengths": torch.full((batch,), layout.encoder_positions),
        "decoder_lengths": torch.full((batch,), layout.decoder_positions),
    }
    labels = scale.scaled(window[:, history:])
    return Windows(inputs, scale, n_observed > 0, labels, past, _anchors(past, scale, *anchors), weight)


@cache
def _ends(layout: Layout) -> Tensor:
    """Where the encoder's pieces end, in steps from the origin; the last one at 0."""
    steps = torch.tensor(layout.piece_steps)
    return steps.cumsum(0) - steps.sum()


@cache
def middles(layout: Layout) -> Tensor:
    """Where the middles of the encoder's pieces lie, in steps from the origin."""
    return _ends(layout) - (torch.tensor(layout.piece_steps) + 1) / 2


def _moments(first: Tensor, places: Tensor) -> Tensor:
    """Calendar and distance of places (positions,), in steps from the origins `first`; (batch, positions, 6)."""
    moments = (first[:, None] + places.floor().long()) % _WEEK_STEPS
    calendar = _week().index_select(0, moments.flatten()).view(*moments.shape, -1)
    relative = (places / HORIZON_STEPS).expand(len(first), -1)
    return torch.cat([calendar, relative[..., None]], dim=-1)


def _pieces(past: Tensor, scale: Scale, layout: Layout) -> Tensor:
    """What the encoder reads of each piece of (batch, history, n_metrics); (batch, positions, variables)."""
    means, above, below, missing = [], [], [], []
    end = past.size(1) - layout.encoder_steps
    for count, steps in layout.pieces:
        begin, end = end, end + count * steps
        piece = past[:, begin:end]
        if steps == 1:
            mean, gone = _masked(scale.scaled(piece))
            highest, lowest, gone = mean, mean, gone.to(mean)
        else:
            mean, highest, lowest, gone = _summary(piece.reshape(len(past), count, steps, -1))
            mean, highest, lowest = (_masked(scale.scaled(each))[0] for each in (mean, highest, lowest))
        means.append(mean)
        above.append(highest - mean)
        below.append(mean - lowest)
        missing.append(gone)
    if not layout.is_coarse:
        return torch.cat([torch.cat(means, dim=1), torch.cat(missing, dim=1)], dim=-1)
    length = (torch.log2(torch.tensor(layout.piece_steps, dtype=past.dtype)) / 8)[:, None].expand(len(past), -1, -1)
    return torch.cat([*(torch.cat(each, dim=1) for each in (means, above, below, missing)), length], dim=-1)


def _summary(pieces: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, highest, lowest and missing share of (batch, pieces, steps, n_metrics); NaN where nothing was measured."""
    gone = torch.isnan(pieces)
    count = pieces.size(2) - gone.sum(dim=2)
    mean = pieces.nansum(dim=2) / count  # 0 / 0 is NaN
    nothing = count == 0
    highest = pieces.masked_fill(gone, -np.inf).amax(dim=2).masked_fill_(nothing, np.nan)
    lowest = pieces.masked_fill(gone, np.inf).amin(dim=2).masked_fill_(nothing, np.nan)
    return mean, highest, lowest, 1 - count / pieces.size(2)


def _lags(past: Tensor, scale: Scale, layout: Layout) -> tuple[Tensor, Tensor]:
    """What the decoder is shown of earlier days, (batch, positions, variables), and the day before step by step.

    The latter in scaled space, 0 where it is missing: (batch, horizon, n_metrics).
    """
    shown, day_ago = [], None
    for days in layout.lag_days:
        begin = past.size(1) - days * DAY_STEPS
        values, missing = _masked(scale.scaled(past[:, begin : begin + HORIZON_STEPS]))
        day_ago = values if day_ago is None else day_ago
        lacking = missing.to(values).mean(dim=-1, keepdim=True)
        shown += [*_patches(values, layout), lacking.view(len(past), -1, layout.patch, 1).mean(dim=2)]
    assert day_ago is not None  # the layout's first lag is a day
    return torch.cat(shown, dim=-1), day_ago


def _patches(values: Tensor, layout: Layout) -> list[Tensor]:
    """Mean of each patch of (batch, horizon, n_metrics) and how far its peak lies above, or the steps themselves."""
    if layout.patch == 1:
        return [values]
    patches = values.reshape(len(values), -1, layout.patch, values.size(-1))
    mean = patches.mean(dim=2)
    return [mean, patches.amax(dim=2) - mean]


@dataclass(frozen=True)
class _Hiding:
    """What is hidden of each window of a batch: bool (batch,), and how many steps of history are kept."""

    server: Tensor
    profile: Tensor
    state: Tensor
    kept: Tensor

    @classmethod
    def draw(cls, shares: Augmentation, batch: int, spec: FeatureSpec, generator: torch.Generator | None) -> _Hiding:
        chance = torch.rand((4, batch), generator=generator)
        # Log-uniform, because it is the first minutes of a new server that differ most from a whole history.
        kept = torch.exp(torch.rand(batch, generator=generator) * np.log(spec.history_steps)).round()
        return cls(
            chance[0] < shares.unknown_server,
            chance[1] < shares.unknown_profile,
            chance[2] < shares.unknown_state,
            torch.where(chance[3] < shares.short_history, kept, spec.history_steps),
        )

    def part(self, part: slice) -> _Hiding:
        return _Hiding(self.server[part], self.profile[part], self.state[part], self.kept[part])


def _masked(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """The values with 0 where they are missing, and where that is."""
    missing = torch.isnan(scaled)
    return scaled.masked_fill_(missing, 0.0), missing


def _median(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median over the steps of (batch, steps, n_metrics) of what is there, and how much that is; (batch, n_metrics).

    Of two middle values the lower one, NaN without any: what `torch.nanmedian` says, in a tenth of its time.
    """
    ordered = torch.from_numpy(np.sort(values.transpose(1, 2).contiguous().numpy(), axis=-1))  # NaN comes last
    count = ordered.size(-1) - torch.isnan(ordered).sum(dim=-1)
    middle = torch.div(count - 1, 2, rounding_mode="floor").clamp_min(0)
    return torch.gather(ordered, -1, middle[..., None])[..., 0], count


def _window_scale(day: Tensor, spec: FeatureSpec) -> tuple[Scale, Tensor]:
    """Median and mean absolute deviation of the day before the origin, drawn towards the fleet's typical spread.

    Parameters
    ----------
    day : Tensor, (batch, DAY_STEPS, n_metrics)

    Returns
    -------
    Scale, and the number of observed steps, (batch, n_metrics).
    """
    median, count = _median(day)
    center, n_observed = torch.nan_to_num(median), count.to(day)
    deviation = (day - center[:, None]).abs_().nansum(dim=1)  # mean × n_observed
    prior = torch.tensor(spec.prior_scale, dtype=day.dtype)
    spread = (deviation + PRIOR_STEPS * prior) / (n_observed + PRIOR_STEPS)
    return Scale(center, spread.clamp_min(SMALLEST_SPREAD)), n_observed


def _last_seen(past: Tensor) -> Tensor:
    """Newest value of (batch, steps, n_metrics) that is there, (batch, n_metrics); NaN if there is none."""
    position = torch.arange(1, past.size(1) + 1, device=past.device)[:, None] * torch.isfinite(past)
    newest = position.max(dim=1, keepdim=True).values  # 0 where nothing was ever seen
    return torch.gather(past, 1, (newest - 1).clamp_min(0)).masked_fill(newest == 0, float("nan"))[:, 0]


def _anchors(past: Tensor, scale: Scale, day_ago: Tensor, *cycle: Tensor) -> Tensor:
    """Naive forecasts in scaled space, in the order of `Layout.anchors`; the window's median where one is not known.

    Real servers are often best forecast by "same as now", generated and busy ones by the day before. A network that
    has to learn such a level from its inputs needs many more windows than one that only has to weigh them.
    """
    recent, count = _median(past[:, -RECENT_STEPS:])
    last = _last_seen(past[:, -DAY_STEPS:])  # what has not reported for a day is not forecast
    recent = torch.where(count > 0, recent, last)
    levels = torch.nan_to_num(scale.scaled(torch.stack([recent, last], dim=1)))  # (batch, 2, n_metrics)
    recent, last = (levels[:, k, None].expand_as(day_ago) for k in (0, 1))
    return torch.stack([recent, last, day_ago, torch.zeros_like(day_ago), *cycle], dim=-1)


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


@cache
def _week() -> Tensor:
    """The calendar of every step of a week, counted from 1970; looking it up is quicker than computing it."""
    return _calendar(torch.arange(_WEEK_STEPS))


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 99, (1, 9 * DAY_STEPS, N_METRICS)).astype(np.float32)
    grid = FleetGrid(("ppweb001",), ("web_api",), 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    spec = FeatureSpec(Layout(), ("1",), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ["1"])
    windows = gather_windows(fleet, torch.tensor([0, 0]), torch.tensor([400, grid.n_steps - HORIZON_STEPS]), spec)
    assert windows.inputs["encoder_cont"].shape == (2, 30, len(spec.layout.reals))
    back = windows.scale.units(windows.labels[..., None])[..., 0]
    assert np.allclose(back[0], values[0, 400 : 400 + HORIZON_STEPS], rtol=1e-3, atol=1e-3)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
