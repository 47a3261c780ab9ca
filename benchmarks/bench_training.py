"""How fast training is beside pytorch-forecasting's own, and how much sooner it is as good; both sides in one run.

python benchmarks/bench_training.py          # all of it, about 8 minutes on 2 cores
python benchmarks/bench_training.py --quick  # samples per second only, about 4 minutes
python benchmarks/bench_training.py --json   # one JSON object as the last line

Both sides train a network of the same size on the training period of the default fleet (90 servers, 720 hours), in
batches of 128 windows of 72 + 96 steps, each through its own loop: data loading, loss, gradients, clipping and
optimiser included. What the other side is, and what was chosen for it, stands in `stock.py`.

**Samples per second**: blocks of whole trainings of 32 batches take turns; medians. The library's loader has 0 or 2
worker processes, whichever was faster in a first block each, without the start of the workers (`stock_workers`).

**Time to quality**: the library trains for `--epochs` epochs of 5,120 windows; after each, its forecasts of common
validation windows are scored. Then the product trains with its own settings and a schedule of as many epochs of as
many windows, and is scored on the very same windows every ten batches, until it is as good as the other side's best.
Scoring is left out of the seconds of both sides, and so is the validation that the product does by itself. Scored is
the mean pinball loss over 11 quantiles and four metrics of forecasts in units, held within the metrics' ranges on
both sides, in two ways: after `Scale.scaled` of each window (what the product trains on), and in units divided by
each metric's mean spread (what the other side trains on). The keys `ratio_time_to_stock_best_loss`,
`stock_best_loss`, `seconds_stock`, `seconds_ours` and `epochs_ours` are of the way that is worse for us. The two
trainings cannot take turns: other load on the machine shows in that ratio more than in the others.

**Steps**: forward and backward pass alone, same weights and windows, in turn (`ratio_vs_stock_step`).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from measured import in_turn, report, say
from pytorch_forecasting import TemporalFusionTransformer
from stock import (
    BATCH,
    HISTORY_STEPS,
    LAYOUT,
    StockSettings,
    chosen_windows,
    quiet,
    stock_dataset,
    stock_fit,
    stock_frame,
    stock_loader,
    stock_network,
    stock_quantiles,
)
from torch import Tensor

from config import Settings
from data_contract import HORIZON_STEPS, METRICS
from fleet_grid import DAY_STEPS, FleetGrid
from fleet_spreads import mean_root_spread, typical_spread
from metrics_generator import GeneratorOptions, generate_frame
from server_encoder import ServerEncoder
from tft_features import (
    Augmentation,
    FeatureSpec,
    FleetTensors,
    Scale,
    Windows,
    gather_windows,
)
from tft_model import NetworkConfig, forecast_scaled
from training_loop import EpochRecord, ForecastLoss, Plan, Progress, Training
from training_network import build_network, network_arguments
from training_origins import Origins, split_origins
from training_processes import Processes
from training_windows import WindowBatches

CRITERIA = ("scaled", "spreads")
_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
_SCORED = 256  # windows per forward pass when forecasts are scored


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    servers: int = 90
    hours: int = 720
    windows: int = 5_120  # per epoch
    validation: int = 512
    block: int = 4_096  # windows per block when samples per second are measured
    rounds: int = 5
    batch: int = BATCH
    workers: tuple[int, ...] = (0, 2)  # processes that the library's loader may have


TINY = Sizes(servers=5, hours=96, windows=24, validation=16, block=16, rounds=1, batch=8, workers=(0,))


def mean_spread(grid: FleetGrid) -> tuple[float, ...]:
    """Mean over servers of each metric's mean absolute deviation within days, in its unit.

    The mean, where `typical_spread` takes the median: divided by that of a fleet that is mostly idle, the few busy
    servers' disks would be all that counts.
    """
    days = grid.n_steps // DAY_STEPS
    day = grid.values[:, -days * DAY_STEPS :].reshape(grid.n_servers * days, DAY_STEPS, -1)
    spread = np.nanmean(np.abs(day - np.nanmedian(day, axis=1, keepdims=True)), axis=(0, 1))
    return tuple(float(value) for value in np.maximum(spread, 1e-3))


class Problem:
    """The fleet, its split, and the validation windows on which both sides are scored."""

    def __init__(self, sizes: Sizes, seed: int = 1) -> None:
        self.grid = FleetGrid.from_frame(
            generate_frame(GeneratorOptions(servers=sizes.servers, hours=sizes.hours, start=_START))
        )
        self.split = split_origins(self.grid, 0.15)
        known = self.grid.until(self.grid.first_step + self.split.train_end)
        self.spreads = mean_spread(known)
        self.usual_spread = mean_root_spread(known)
        encoder = ServerEncoder()
        encoder.create_mapping(self.grid.names)
        self.spec = FeatureSpec(LAYOUT, tuple(sorted(encoder.name_to_id.values())), typical_spread(known))
        self.fleet = FleetTensors.from_grid(self.grid, self.spec, [encoder.encode(name) for name in self.grid.names])

        self.settings = StockSettings()
        self.frame = stock_frame(self.grid)
        self.stock_training = stock_dataset(self.frame[self.frame["time_idx"] < self.split.train_end], self.settings)
        usable = self.split.validation.usable.mask()
        usable[:, :HISTORY_STEPS] = False  # the library needs a whole window
        rng = np.random.default_rng(seed)
        candidates = np.flatnonzero(usable)
        drawn = rng.choice(candidates, size=min(sizes.validation, len(candidates)), replace=False)
        servers, origins = np.divmod(drawn, self.grid.n_steps)
        self.stock_validation, servers, origins = chosen_windows(self.stock_training, self.frame, servers, origins)
        if len(servers) != len(drawn):
            raise SystemExit(f"{len(drawn)} validation windows were chosen, the other side holds {len(servers)}")
        self.windows = [
            gather_windows(self.fleet, which, begin, self.spec)
            for which, begin in zip(
                torch.from_numpy(servers).split(_SCORED), torch.from_numpy(origins).split(_SCORED), strict=True
            )
        ]
        scales = [part.scale for part in self.windows]
        self.scale = Scale(torch.cat([each.center for each in scales]), torch.cat([each.spread for each in scales]))
        steps = origins[:, None] + np.arange(HORIZON_STEPS)
        self.truth = torch.from_numpy(np.ascontiguousarray(self.grid.values[servers[:, None], steps]))

    def losses(self, forecast: Tensor) -> dict[str, float]:
        """Mean pinball loss of forecasts in units, (windows, 96, metrics, quantiles), by both criteria."""
        ordered = forecast.transpose(2, 3)  # metrics last
        scaled = self.scale.scaled(ordered.flatten(1, 2)).view(ordered.shape).transpose(2, 3)
        spreads = torch.tensor(self.spreads)
        return {
            "scaled": self._pinball(scaled, self.scale.scaled(self.truth)),
            "spreads": self._pinball(forecast / spreads[:, None], self.truth / spreads),
        }

    def _pinball(self, forecast: Tensor, truth: Tensor) -> float:
        quantiles = torch.tensor(self.spec.quantiles)
        error = truth[..., None] - forecast
        return float(torch.maximum(quantiles * error, (quantiles - 1) * error).nanmean())

    def score_stock(self, network: Any) -> dict[str, float]:
        """Losses of the library's network; held within the metrics' ranges, as ours are."""
        forecast, truth = stock_quantiles(network, self.stock_validation)
        if not torch.allclose(truth, self.truth, rtol=1e-6, equal_nan=True):
            raise SystemExit("the validation windows of the two sides are not the same")
        lower = torch.tensor([metric.lower for metric in METRICS])
        upper = torch.tensor([math.inf if metric.upper is None else metric.upper for metric in METRICS])
        return self.losses(forecast.clamp(lower[:, None], upper[:, None]))

    @torch.no_grad()
    def score_ours(self, network: Any) -> dict[str, float]:
        """Losses of our network."""
        training = network.training
        network.eval()
        forecast = torch.cat([part.scale.units(forecast_scaled(network, part)) for part in self.windows])
        network.train(training)
        return self.losses(forecast)


class Reached(Exception):  # noqa: N818  # no error: the training was as good as asked for
    """Leaves the product's training."""


class Scores:
    """What was scored when; its clock stands still while it scores."""

    def __init__(self, score: Callable[[Any], dict[str, float]], goal: dict[str, float] | None = None) -> None:
        self._score, self._goal = score, goal
        self._paused = 0.0
        self._started = time.perf_counter()
        self.kept: list[tuple[float, float, dict[str, float]]] = []  # seconds, epochs, losses

    def pause(self, seconds: float) -> None:
        """Leave out time that is not spent on training."""
        self._paused += seconds

    def note(self, network: Any, epochs: float) -> None:
        """Score a network now."""
        now = time.perf_counter()
        losses = self._score(network)
        self.kept.append((now - self._started - self._paused, epochs, losses))
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        say(f"  {self.kept[-1][0]:6.1f} s, {epochs:.2f} epochs: {told}")
        self.pause(time.perf_counter() - now)

    def best(self, criterion: str) -> tuple[float, float, dict[str, float]]:
        """The score that was best by a criterion, the first of equal ones."""
        return min(self.kept, key=lambda score: score[2][criterion])

    def reached(self, criterion: str) -> tuple[float, float] | None:
        """Seconds and epochs after which the goal was first reached."""
        goal = {} if self._goal is None else self._goal
        return next(((s, e) for s, e, losses in self.kept if losses[criterion] <= goal[criterion]), None)


class ScoreEpochs(Callback):
    """Scores the library's network after every epoch."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score."""
        self._scores.note(pl_module, trainer.current_epoch + 1)


class EpochEnds(Callback):
    """When the library's epochs ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note it."""
        del trainer, pl_module
        self.moments.append(time.perf_counter())


class Watch:
    """Listens to the product's training: how long its batches take, and every few of them how good it is.

    The validation that the training itself does after an epoch is left out of the seconds, as scoring is.
    """

    every = 10  # batches between two scores, so that the moment of crossing is known well

    def __init__(self, batches: int, scores: Scores | None = None) -> None:
        self._batches, self._scores = batches, scores
        self.network: Any = None
        self._last_batch = time.perf_counter()

    def begin_epoch(self, standing: Progress) -> None:
        """Leave out what came between the last batch and this epoch."""
        if self._scores is not None and standing.epoch > 0:
            self._scores.pause(time.perf_counter() - self._last_batch)

    def batch_done(self, standing: Progress) -> None:
        """Score, if it is time to."""
        if self._scores is not None and (standing.step % self.every == 0 or standing.batch == self._batches):
            self._scores.note(self.network, standing.step / self._batches)
            if all(self._scores.reached(name) is not None for name in CRITERIA):
                raise Reached
        self._last_batch = time.perf_counter()

    def end_epoch(self, record: EpochRecord, standing: Progress) -> None:
        """Nothing to do."""

    @property
    def last_batch(self) -> float:
        """Moment at which the last batch was done."""
        return self._last_batch


def our_training(problem: Problem, windows: int, batch: int, epochs: int, scores: Scores | None = None) -> float:
    """Seconds in which the product learns with its own loop and settings, from making the optimiser to the last batch.

    It stops at `epochs`, or when the goal of `scores` is reached.
    """
    settings = Settings()

    def batches(origins: Origins, count: int, augmentation: Augmentation | None) -> WindowBatches:
        return WindowBatches(
            problem.fleet,
            problem.spec,
            origins,
            windows=count,
            batch_size=batch,
            seed=settings.seed,
            augmentation=augmentation,
        )

    learning = batches(problem.split.train, windows, Augmentation())
    validation = batches(problem.split.validation, 1, None)  # its own; ours are scored by the watch
    processes = Processes.alone()
    torch.manual_seed(settings.seed)
    learner = ForecastLoss(problem.spec, NetworkConfig(), problem.usual_spread)
    plan = Plan(epochs=epochs, learning_rate=settings.learning_rate, patience=epochs, seed=settings.seed)
    watch = Watch(len(learning), scores)
    watch.network = learner.network
    started = time.perf_counter()
    training = Training(learner, learning, validation, plan, processes, report=watch)
    with contextlib.suppress(Reached):
        training.run()
    return watch.last_batch - started


def bench_throughput(problem: Problem, sizes: Sizes) -> dict[str, float]:
    """Windows per second of whole `fit` calls, in turn."""
    network = stock_network(problem.stock_training, problem.spreads, NetworkConfig(), problem.settings)
    loaders = {
        workers: stock_loader(problem.stock_training, sizes.block, sizes.batch, workers) for workers in sizes.workers
    }

    def stock_block(workers: int) -> float:
        if workers == 0:
            return sizes.block / stock_fit(network, loaders[workers], problem.settings, 1)
        ends = EpochEnds()  # Lightning starts worker processes anew for every fit: that is left out
        stock_fit(network, loaders[workers], problem.settings, 2, ends)
        return sizes.block / (ends.moments[1] - ends.moments[0])

    def our_block() -> float:
        return sizes.block / our_training(problem, sizes.block, sizes.batch, 1)

    # The first run of each is a warm-up.
    tried: dict[int, float] = {}
    for workers in loaders:
        stock_block(workers)
        tried[workers] = stock_block(workers)
        say(f"  stock, {workers} workers: {tried[workers]:.0f} windows/s")
    workers = max(tried, key=lambda number: tried[number])
    our_block()
    stock, ours = [], []
    for _ in range(sizes.rounds):
        stock.append(stock_block(workers))
        ours.append(our_block())
        say(f"  stock {stock[-1]:.0f}, ours {ours[-1]:.0f} windows/s")
    return {
        "ratio_vs_stock": round(statistics.median(ours) / statistics.median(stock), 2),
        "train_samples_per_s": round(statistics.median(ours), 1),
        "stock_samples_per_s": round(statistics.median(stock), 1),
        "stock_workers": workers,
        **{f"stock_samples_per_s_{number}_workers": round(tried[number], 1) for number in tried},
    }


def bench_quality(problem: Problem, sizes: Sizes, epochs: int, workers: int) -> dict[str, float | None]:
    """Seconds until ours is as good as the best that the library reaches, by the criterion that is worse for us."""
    say(f"stock, {epochs} epochs of {sizes.windows} windows")
    torch.manual_seed(0)
    network = stock_network(problem.stock_training, problem.spreads, NetworkConfig(), problem.settings)
    theirs = Scores(problem.score_stock)
    loader = stock_loader(problem.stock_training, sizes.windows, sizes.batch, workers)
    stock_fit(network, loader, problem.settings, epochs, ScoreEpochs(theirs))
    goal = {name: theirs.best(name)[2][name] for name in CRITERIA}

    say(f"ours, until it is as good: {', '.join(f'{name} {loss:.4f}' for name, loss in goal.items())}")
    ours = Scores(problem.score_ours, goal)
    our_training(problem, sizes.windows, sizes.batch, epochs, ours)

    figures: dict[str, float | None] = {}
    ratios: dict[str, float] = {}
    for name in CRITERIA:
        reached, best_seconds = ours.reached(name), theirs.best(name)[0]
        ratios[name] = math.inf if reached is None else reached[0] / best_seconds
        figures[f"ratio_time_{name}"] = None if reached is None else round(ratios[name], 4)
        figures[f"stock_best_loss_{name}"] = round(goal[name], 5)
        figures[f"our_best_loss_{name}"] = round(ours.best(name)[2][name], 5)
    worse = max(CRITERIA, key=lambda name: ratios[name])
    reached = ours.reached(worse)
    return {
        "ratio_time_to_stock_best_loss": figures[f"ratio_time_{worse}"],
        "stock_best_loss": figures[f"stock_best_loss_{worse}"],
        "seconds_stock": round(theirs.best(worse)[0], 1),
        "epochs_stock": theirs.best(worse)[1],
        "seconds_ours": None if reached is None else round(reached[0], 2),
        "epochs_ours": None if reached is None else round(reached[1], 2),
        "seconds_stock_all_epochs": round(theirs.kept[-1][0], 1),
        **figures,
    }


def bench_step(problem: Problem, batch: int, rounds: int) -> dict[str, float]:
    """Forward and backward pass of the two networks alone, with the same weights on the same batch."""
    torch.manual_seed(0)
    fast = build_network(problem.spec, NetworkConfig())
    with quiet():
        stock = TemporalFusionTransformer(**network_arguments(problem.spec, NetworkConfig()))
    stock.transform_output = lambda prediction, **_: prediction
    stock.load_state_dict(fast.state_dict())
    last = problem.grid.n_steps - HORIZON_STEPS
    servers = torch.randint(0, problem.grid.n_servers, (batch,))
    origins = torch.randint(last // 2, last, (batch,))

    def gather() -> Windows:
        return gather_windows(problem.fleet, servers, origins, problem.spec)

    inputs = gather().inputs

    def stock_outputs() -> Tensor:
        return torch.stack(stock({**inputs, "target_scale": None}).prediction, dim=2)

    def step(network: torch.nn.Module, outputs: Callable[[], Tensor]) -> None:
        network.zero_grad()
        outputs().square().mean().backward()

    times = in_turn(
        {
            "stock": lambda: step(
                stock, lambda: torch.stack(stock({**inputs, "target_scale": None}).prediction, dim=2)
            ),
            "fast": lambda: step(fast, lambda: fast.raw_outputs(inputs)),
            "gather": gather,
        },
        rounds,
    )
    return {
        "ratio_vs_stock_step": round(times["stock"] / times["fast"], 2),
        "ms_step": round(times["fast"], 1),
        "stock_ms_step": round(times["stock"], 1),
        "ms_gather": round(times["gather"], 1),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the other side for the time to quality (10)")
    parser.add_argument("--quick", action="store_true", help="samples per second only")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing but that all of it runs")
    options = parser.parse_args()
    begin = time.perf_counter()
    load = os.getloadavg()[0]
    sizes = TINY if options.tiny else Sizes()
    problem = Problem(sizes)
    say(f"{len(problem.truth)} validation windows; samples per second, in turn")
    figures: dict[str, float | None] = {
        **bench_throughput(problem, sizes),
        **bench_step(problem, sizes.batch, 2 * sizes.rounds),
    }
    if not options.quick:
        figures |= bench_quality(problem, sizes, max(1, options.epochs), int(figures["stock_workers"] or 0))
    figures["validation_windows"] = len(problem.truth)
    figures["torch_threads"] = torch.get_num_threads()
    figures["load_average_1min_before"] = round(load, 2)
    figures["benchmark_seconds"] = round(time.perf_counter() - begin, 1)
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
