"""How good the forecasts are, against what people would use instead: rolling origins over contract data.

    result = run_backtest(Path("training/server_metrics.parquet"), settings, BacktestOptions())
    result.as_dict()                              # what `--json` prints and the report is drawn from

The last part of the time and some of the servers are kept from the training; every server is then forecast from many
origins there, by the model and by each baseline, and scored on the same labels. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from backtest_alerts import EVERY_STEPS, Truth, incidents_beside, judge_alerts
from backtest_examples import Examples
from backtest_origins import Judge, TestWindow, choose_window, insist_on_unseen, kinds_of
from backtest_runs import SERVERS_AT_ONCE, run_method
from backtest_scores import HELD_OUT, KNOWN, Scores
from baselines import BASELINES, Method, make_baseline
from child_processes import ended_by_signals
from common_utils import iso_z, uninterrupted, write_json, written_together
from config import Settings
from data_contract import (
    GENERIC_PROFILE,
    HORIZON_STEPS,
    STEP_MINUTES,
    BacktestError,
    ModelFolderError,
    ProductError,
    shorten,
)
from fleet_grid import FleetGrid, time_of
from forecast_explanation import explain
from model_folder import LATEST, LoadedModel, load_model
from tft_forecaster import Forecaster
from tft_trainer import train
from training_data import TrainingData, copy_servers, load_fleet
from training_options import Hardware, Restrictions, held_out_servers

OWN_MODELS = "backtest"  # folder of models_dir in which models lie that were trained for a backtest
RESULT_FILE, REPORT_FILE = "result.json", "report.html"
_EXPLAINED = 4  # forecasts: a person reads no more
_FLEET, _KNOWN_FLEET = "fleet", "known"

Tell = Callable[[str, int, int], None]  # what is done, how much of it, and how much there is


@dataclass(frozen=True)
class BacktestOptions:
    """What is judged, and on what.

    Attributes
    ----------
    model_dir : Path, optional
        A trained model; without it, one is trained on what lies before the test.
    test_days : float, optional
        Length of the test; the last fifth of the data, nine days at most, without.
    every_steps : int
        From origin to origin.
    origins : int, optional
        At most so many of them, spread evenly.
    hold_out : float
        Share of the servers that the model to be trained does not see.
    baselines : tuple of str, optional
        Names of what to compare with; all that there are, without.
    epochs, max_seconds, resume, hardware
        Of the training.
    workers : int, optional
        Processes for baselines that take long; as many as there are cores, without.
    alerts : bool
        Whether alerts are judged, too.
    truth : {"auto", "incidents", "crossings"}
        What alerts are judged against: by default incidents where they lie beside the data, else crossings.
    alert_every_steps : int
        From forecast to forecast when alerts are judged.
    """

    model_dir: Path | None = None
    test_days: float | None = None
    every_steps: int = HORIZON_STEPS
    origins: int | None = None
    hold_out: float = 0.2
    baselines: tuple[str, ...] | None = None
    epochs: int = 10
    max_seconds: float | None = None
    resume: bool = False
    hardware: Hardware | None = None
    workers: int | None = None
    alerts: bool = False
    truth: Truth = "auto"
    alert_every_steps: int = EVERY_STEPS


@dataclass
class BacktestResult:
    """What came out; see Docs/BACKTEST.md for every field.

    Attributes
    ----------
    stopped : bool
        Whether Ctrl-C ended it early: methods that were not finished are then told as skipped.
    """

    what: dict[str, Any]
    methods: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    calibration: list[dict[str, Any]] = field(default_factory=list)
    by_step: list[dict[str, Any]] = field(default_factory=list)
    crossings: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    alerts: dict[str, Any] | None = None
    explanations: list[dict[str, Any]] | None = None
    stopped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class TftMethod:
    """The model as a method of forecasting, like every baseline."""

    name = "tft"
    title = "TFT (this product)"

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster

    def fit(self, grid: FleetGrid, until: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Nothing: the model was trained before."""

    def forecast(self, grid: FleetGrid, column: int) -> npt.NDArray[np.float32]:
        """Quantiles of each server from a column on, from what lies before it."""
        return self._forecaster.predict_grid(grid.until(grid.first_step + column)).values

    def as_generic(self, grid: FleetGrid, servers: Sequence[int]) -> npt.NDArray[np.float32]:
        """Forecasts of some servers from the grid's end on, as if nothing were known of their roles."""
        recent = grid.since(grid.origin_step - self._forecaster.history_steps).select(servers)
        hidden = replace(recent, profiles=(GENERIC_PROFILE,) * recent.n_servers)
        return self._forecaster.predict_grid(hidden).values

    def explained(self, history: FleetGrid) -> dict[str, Any]:
        """Why the forecast of one server, from the end of its history on, is as it is."""
        return explain(self._forecaster, history, history.names[0]).as_dict()


def run_backtest(
    data_path: Path,
    settings: Settings,
    options: BacktestOptions | None = None,
    *,
    tell: Tell | None = None,
    console: Console | None = None,
) -> BacktestResult:
    """Train a model for the test (unless one is given), forecast from many origins, and score that beside baselines.

    Ctrl-C and SIGTERM end it; once the model is scored, with what was finished. A training goes on with `resume`; the
    model that it makes stays in `models/backtest/`, and can be given as `model_dir`.

    Parameters
    ----------
    data_path : Path
        Contract data of any size; validated strictly first.
    tell : callable, optional
        Told of the progress.
    console : Console, optional
        Where the training reports; silent without.

    Raises
    ------
    DataFileError, ContractError
        If the data cannot be read or breaks the contract.
    BacktestError
        If there is too little data, or if the given model has learned from the test.
    ModelFolderError, TrainingError
        If the model cannot be used, or not be trained.
    """
    options = options or BacktestOptions()
    tell = tell or _tell_nobody
    started = time.perf_counter()
    names = tuple(BASELINES) if options.baselines is None else options.baselines
    model = None if options.model_dir is None else load_model(options.model_dir)
    models_dir = settings.models_dir / OWN_MODELS
    incidents = incidents_beside(data_path, options.truth) if options.alerts else None
    with ended_by_signals(), _work_folder(models_dir) as work:
        data = load_fleet(data_path, work / _FLEET, lambda done, total: tell("reading", done, total))
        grid = data.grid
        window = choose_window(
            grid,
            test_days=options.test_days,
            every_steps=options.every_steps,
            most=options.origins,
            learns=model is None,
        )
        notes: list[str] = []
        if model is None:
            model = _train_for(data_path, data, window, settings, models_dir, options, notes, console)
        _insist_on_fairness(model, window, grid)
        unseen = frozenset(name for name in grid.names if name not in model.encoder)
        judge = Judge.begin(work / _FLEET, window.columns, kinds_of(grid, unseen))
        result = BacktestResult(_describe(data_path, data, judge, window, model, notes))
        course = _Course(judge, window, model, work, options.workers or os.cpu_count() or 1, settings.seed, tell)
        course.judge_model(result)
        try:
            if options.alerts:
                forecaster = Forecaster(model)
                judged = judge_alerts(
                    forecaster,
                    grid,
                    window.begin,
                    settings,
                    incidents=incidents,
                    every_steps=options.alert_every_steps,
                    tell=tell,
                )
                result.alerts = judged.as_dict()
        except KeyboardInterrupt:
            result.stopped = True
        course.judge_baselines(names, result)
        result.what["seconds"] = round(time.perf_counter() - started, 1)
    return result


def _tell_nobody(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""


@contextlib.contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder for the data on the grid, which goes away at the end; those of killed backtests do, too."""
    try:
        with _gone_if_empty(parent), written_together(parent, []) as folder:
            yield folder
    except ProductError:
        raise
    except OSError as error:
        raise BacktestError(
            f"The backtest cannot write to {parent}: {error.strerror or error}.",
            why="The data on the 5-minute grid is kept there while it is judged, because it may exceed the memory.",
            fix="Free some space, mend the permissions or choose another TFT_MODELS_DIR.",
        ) from error


@contextlib.contextmanager
def _gone_if_empty(folder: Path) -> Iterator[None]:
    """Remove a folder again that was made in the block, and is left empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # what has something in it stays
                each.rmdir()


def _train_for(
    data_path: Path,
    data: TrainingData,
    window: TestWindow,
    settings: Settings,
    models_dir: Path,
    options: BacktestOptions,
    notes: list[str],
    console: Console | None,
) -> LoadedModel:
    """Train a model that has seen neither the test nor the servers that are held out."""
    grid = data.grid
    profile_of = dict(zip(grid.names, grid.profiles, strict=True))
    hold_out = options.hold_out if held_out_servers(profile_of, options.hold_out) else 0.0
    if hold_out < options.hold_out:
        notes.append("No server could be held out: each profile needs one to be learned from.")
    folder = train(
        data_path,
        models_dir,
        settings,
        epochs=options.epochs,
        resume=options.resume,
        max_seconds=options.max_seconds,
        hardware=options.hardware,
        restrictions=Restrictions(time_of(grid.first_step + window.begin), hold_out),
        console=console,
    )
    notes.append(f"The model was trained for this backtest and lies in {models_dir / LATEST}.")
    return load_model(folder)


def _insist_on_fairness(model: LoadedModel, window: TestWindow, grid: FleetGrid) -> None:
    """Refuse a model that has seen the test; one that knows none of the servers has not, whenever it was trained."""
    end = _trained_until(model)
    if any(name in model.encoder for name in grid.names):
        insist_on_unseen(model.name, -(-int(end.timestamp()) // (STEP_MINUTES * 60)), window, grid)


def _trained_until(model: LoadedModel) -> datetime:
    try:
        return datetime.fromisoformat(str(model.info["data"]["end"]).removesuffix("Z")).replace(tzinfo=timezone.utc)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f"The model {model.name} does not say until when it has learned.",
            why="It could have learned from the very data that it is to be judged on.",
            fix="Leave --model out, and a model is trained for the test; or train one with `python main.py train`.",
            document="Docs/BACKTEST.md",
        ) from error


def _describe(
    data_path: Path, data: TrainingData, judge: Judge, window: TestWindow, model: LoadedModel, notes: list[str]
) -> dict[str, Any]:
    """Tell what is judged, and on what."""
    grid = data.grid
    unseen = judge.kinds != KNOWN
    if not unseen.any():
        notes.append("Every server was learned from, so nothing is told of unknown ones.")
    if unseen.all():
        notes.append("The model was trained on none of these servers; baselines that learn have learned from them.")
    return {
        "data": str(data_path),
        "fingerprint": data.fingerprint,
        "servers": grid.n_servers,
        "held_out_servers": int(unseen.sum()),
        "test_from": iso_z(time_of(grid.first_step + window.columns[0])),
        "test_until": iso_z(time_of(grid.first_step + window.columns[-1] + HORIZON_STEPS)),
        "origins": len(window.columns),
        "horizon_steps": HORIZON_STEPS,
        "step_minutes": STEP_MINUTES,
        "quantiles": list(model.spec.quantiles),
        "model": {
            "name": model.name,
            "trained_until": iso_z(_trained_until(model)),
            "known_servers": len(model.encoder),
        },
        "labels_not_asked": 0,
        "notes": notes,
        "seconds": 0.0,
    }


@dataclass(frozen=True)
class _Course:
    """One backtest at work."""

    judge: Judge
    window: TestWindow
    model: LoadedModel
    work: Path
    workers: int
    seed: int
    tell: Tell

    def judge_model(self, result: BacktestResult) -> None:
        """Score the model, and once more with the profiles of held-out servers hidden; choose examples."""
        method = TftMethod(Forecaster(self.model))
        quantiles = self.model.spec.quantiles
        examples = Examples(self.judge)
        scores, seconds = run_method(
            self.judge, method, quantiles, progress=self._progress(method.title), watch=examples.watch
        )
        self._add(result, method, scores, float(self.model.info.get("wall_time_seconds") or 0.0), seconds)
        result.what["labels_not_asked"] = scores.not_asked
        if (self.judge.kinds == HELD_OUT).any():
            result.scores += scores.profile_rows(method.name, "known")
            result.scores += self._as_generic(method, quantiles).profile_rows(method.name, GENERIC_PROFILE)
        result.examples = examples.records(method, quantiles)
        result.explanations = [method.explained(history) for history in examples.histories(_EXPLAINED)]

    def _as_generic(self, method: TftMethod, quantiles: Sequence[float]) -> Scores:
        """Scores of the held-out servers that have a profile, forecast without it."""
        scores = Scores(quantiles)
        pieces = list(self.judge.pieces(SERVERS_AT_ONCE))
        progress = self._progress(f"{method.title}, profiles hidden")
        for done, (number, servers) in enumerate(pieces):
            chosen = np.flatnonzero(self.judge.kinds[servers] == HELD_OUT)
            if len(chosen):
                forecast = method.as_generic(self.judge.known_at(number, servers), [int(place) for place in chosen])
                scores.add(forecast, self.judge.labels(servers, number).of(chosen))
            progress(done + 1, len(pieces))
        return scores

    def judge_baselines(self, names: Sequence[str], result: BacktestResult) -> None:
        """Fit and score one after the other; Ctrl-C ends it with those that were finished."""
        known: FleetGrid | None = None
        for place, name in enumerate(names):
            baseline = BASELINES[name]
            try:
                if result.stopped:
                    raise KeyboardInterrupt
                reason = baseline.unavailable()
                if reason is not None:
                    self._skip(result, name, baseline.title, reason)
                    continue
                known = self._known() if known is None else known
                method = make_baseline(name, self.model.spec.quantiles, self.seed)
                started = time.perf_counter()
                method.fit(known, self.window.begin, self._progress(f"{method.title}, learning"))
                fitted = time.perf_counter() - started
                scores, seconds = run_method(
                    self.judge,
                    method,
                    self.model.spec.quantiles,
                    workers=self.workers,
                    progress=self._progress(method.title),
                )
                with uninterrupted():  # all of it or nothing
                    self._add(result, method, scores, fitted, seconds)
            except ProductError as error:
                self._skip(result, name, baseline.title, error.what)
            except KeyboardInterrupt:
                result.stopped = True
                done = {method["name"] for method in result.methods}
                for left in (each for each in names[place:] if each not in done):
                    self._skip(result, left, BASELINES[left].title, "the backtest was stopped before it was finished")
                return

    def _known(self) -> FleetGrid:
        """The servers that may be learned from, until the test begins."""
        end = self.judge.grid.first_step + self.window.begin
        known = [int(server) for server in np.flatnonzero(self.judge.kinds == KNOWN)]
        if len(known) in (0, self.judge.grid.n_servers):
            return self.judge.grid.until(end)
        return copy_servers(self.judge.grid.until(end), known, self.work / _KNOWN_FLEET)

    def _progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.tell(what, done, total)

    def _add(self, result: BacktestResult, method: Method, scores: Scores, fitted: float, seconds: float) -> None:
        """Keep what a method has scored."""
        told = {"fit_seconds": round(fitted, 3), "forecast_seconds": round(seconds, 3), "skipped": None}
        result.methods.append({"name": method.name, "title": method.title, **told, "unanswered": scores.unanswered})
        result.scores += scores.rows(method.name)
        result.calibration += scores.calibration(method.name)
        result.by_step += scores.by_step(method.name)
        result.crossings[method.name] = scores.crossings

    def _skip(self, result: BacktestResult, name: str, title: str, reason: str) -> None:
        """Tell why a method has no scores."""
        told = {"fit_seconds": None, "forecast_seconds": None, "skipped": reason, "unanswered": None}
        result.methods.append({"name": name, "title": title, **told})


def insist_on_output(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before hours of work are done for it.

    Raises
    ------
    BacktestError
        If it cannot be made or written.
    """
    with _writing(folder), _gone_if_empty(folder), written_together(folder, []):
        pass


def write_result(answer: dict[str, Any], folder: Path) -> list[Path]:
    """Write `result.json` and the report beside it, both or neither; gives where they are.

    Raises
    ------
    BacktestError
        If they cannot be written; what was there before stays.
    """
    from backtest_report import render_report

    names = [RESULT_FILE, REPORT_FILE]
    page = render_report(answer)
    with _writing(folder), written_together(folder, names) as aside:
        write_json(aside / RESULT_FILE, answer)
        (aside / REPORT_FILE).write_text(page, encoding="utf-8")
    return [folder / name for name in names]


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BacktestError(
            f"The result cannot be written to {folder}: {error.strerror or error}.",
            why="Nothing half-written was left behind; what was there before stays.",
            fix="Free some space, mend the permissions or choose another folder with --output.",
        ) from error


def baselines_named(text: str) -> tuple[str, ...] | None:
    """Names in a list such as `ridge,last_value`; None for `all`, nothing for `none`.

    Raises
    ------
    ValueError
        If there is no such baseline.
    """
    text = text.strip().lower()
    if text in ("all", "none"):
        return None if text == "all" else ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in BASELINES]
    if unknown or not names:
        raise ValueError(f"{shorten(unknown or text)}: there are {', '.join(BASELINES)}, all and none")
    return names


if __name__ == "__main__":
    from main import run_command

    run_command("backtest")
