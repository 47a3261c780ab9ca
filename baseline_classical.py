"""What the classical models of statsforecast say, AutoETS and AutoTheta: asked of a second Python that has the package.

statsforecast holds pandas at an older version than the product, so it cannot be among the product's packages. It lives
in an environment of its own, `.venv-baselines`, which `make baselines` makes, or in any Python that the environment
variable TFT_STATSFORECAST_PYTHON names. Without one these baselines are skipped, and say so.
`baseline_statsforecast.py` runs there, one process per baseline, and is handed arrays through files.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from baseline_naive import NaiveBaseline, last_value
from baseline_windows import FloatArray
from data_contract import TrainingError
from fleet_grid import DAY_STEPS

PYTHON_VARIABLE = "TFT_STATSFORECAST_PYTHON"
ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv-baselines"
_WORKER = ROOT / "baseline_statsforecast.py"
_HOW = f"`make baselines` makes an environment for it, or let {PYTHON_VARIABLE} name a Python that has it"
_LEAST_SEEN = 24  # values of the newest days that a model needs, two hours; below, the last value is its forecast

# AutoETS has no seasons longer than 24 steps, so at 5 minutes it knows level and trend; one day tells it both. A whole
# day is a season for AutoTheta, which needs two of them.
MODELS = {"auto_ets": ("AutoETS", 1, DAY_STEPS), "auto_theta": ("AutoTheta", DAY_STEPS, 2 * DAY_STEPS)}
WINDOWS = {"auto_ets": 768, "auto_theta": 384}  # that residuals are measured on: a model is fitted to each


def python_with_statsforecast() -> Path | None:
    """The Python that has statsforecast: the one that is named, that of `.venv-baselines`, or this one."""
    named = os.environ.get(PYTHON_VARIABLE)
    beside = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    candidates = [Path(named)] if named else [beside]
    for python in candidates:
        if _has_statsforecast(python):
            return python
    if not named and importlib.util.find_spec("statsforecast") is not None:
        return Path(sys.executable)
    return None


@functools.cache
def _has_statsforecast(python: Path) -> bool:
    command = [str(python), "-c", "import importlib.util, sys; sys.exit(not importlib.util.find_spec('statsforecast'))"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False


def unavailable() -> str | None:
    """Why these baselines cannot run here and what to do about it, None if they can."""
    if python_with_statsforecast() is not None:
        return None
    named = os.environ.get(PYTHON_VARIABLE)
    where = (
        f"the Python that {PYTHON_VARIABLE} names, {named}, has no statsforecast" if named else "it is not installed"
    )
    return f"statsforecast is optional, and {where}; {_HOW}"


class ClassicalPoints:
    """Point forecasts of a classical model, fitted anew to the newest part of every past.

    Gaps are filled by straight lines for the fit, and by the last value at the end: these models cannot leave any open.

    Parameters
    ----------
    model : str
        Class of `statsforecast.models`.
    season, length : int
        Steps of a season, and steps of the past that it is fitted to.
    """

    def __init__(self, model: str, season: int, length: int) -> None:
        self._model, self._season, self._length = model, season, length
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # process id: after a fork, the child asks a worker of its own

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_process": None, "_owner": 0}

    def __call__(self, past: FloatArray) -> FloatArray:
        """Points over the horizon, (n, 96, n_metrics); NaN where nothing was ever seen."""
        points = last_value(past)
        recent = past[:, -self._length :].swapaxes(1, 2)
        window, metric = np.nonzero(np.isfinite(recent).sum(axis=-1) >= _LEAST_SEEN)
        if len(window):
            forecast = self._ask(np.stack([_filled(values) for values in recent[window, metric]]))
            there = np.isfinite(forecast).all(axis=1)
            points[window[there], :, metric[there]] = forecast[there]
        return points

    def _ask(self, series: FloatArray) -> FloatArray:
        with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
            source, target = Path(folder) / "series.npy", Path(folder) / "points.npy"
            np.save(source, series.astype(np.float64), allow_pickle=False)
            answer = self._tell(f"{source}\t{target}")
            if answer != "done":
                raise _failed(self._model, answer)
            points: FloatArray = np.load(target, allow_pickle=False).astype(np.float32)
            return points

    def _tell(self, request: str) -> str:
        try:
            worker = self._worker()
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(request + "\n")
            worker.stdin.flush()
            return worker.stdout.readline().strip() or "it ended"
        except OSError as error:
            return str(error)

    def _worker(self) -> subprocess.Popen[str]:
        """The running worker, started when it is first needed; it ends with its input, so with this process."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        python = python_with_statsforecast()
        if python is None:
            raise _failed(self._model, unavailable() or "")
        command = [str(python), str(_WORKER), self._model, str(self._season)]
        # In the worker's environment one series is fitted after the other: more threads would only wait.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._owner = os.getpid()
        weakref.finalize(self, _end, self._process, self._owner)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if answer != "ready":
            raise _failed(self._model, answer or "it ended before it began")
        return self._process


def _filled(values: FloatArray) -> FloatArray:
    places = np.flatnonzero(np.isfinite(values))
    filled: FloatArray = np.interp(np.arange(len(values)), places, values[places]).astype(np.float32)
    return filled


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() != owner:  # a fork's copy: the worker is not its own
        return
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _failed(model: str, reason: str) -> TrainingError:
    return TrainingError(
        f"statsforecast's {model} cannot be asked: {reason}.",
        why="It runs in a Python of its own, and this one did not answer.",
        fix=f"Leave this baseline out, or mend its environment: {_HOW}.",
    )


def classical_baseline(
    name: str, title: str, quantiles: Sequence[float], seed: int = 0, windows: int | None = None
) -> NaiveBaseline:
    """AutoETS or AutoTheta with measured quantiles, as the naive baselines have them."""
    points = ClassicalPoints(*MODELS[name])
    return NaiveBaseline(name, title, points, quantiles, seed, WINDOWS[name] if windows is None else windows)


def _self_check() -> None:
    assert _filled(np.array([np.nan, 1, np.nan, 3, np.nan], dtype=np.float32)).tolist() == [1, 1, 2, 3, 3]
    nothing = np.full((1, 8 * DAY_STEPS, 4), np.nan, dtype=np.float32)
    assert np.isnan(ClassicalPoints(*MODELS["auto_ets"])(nothing)).all()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
