"""How a method forecasts from many origins and is scored on the way, in one process or several.

    scores, seconds = run_method(judge, method, quantiles, workers=4)

Forecasts are made for some servers and one origin at a time, scored at once and forgotten: of a fleet of any size, only
sums are kept. They are added up in one fixed order, so the number of processes does not change a digit. Knows nothing
of which methods there are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backtest_origins import Judge
from backtest_scores import Floats, Scores
from baselines import Method
from data_contract import BacktestError, ProductError

Progress = Callable[[int, int], None]  # work done, work in all
Watch = Callable[[int, slice, Floats], None]  # number of the origin, servers, mean absolute error of each window
Piece = tuple[int, slice]
_Answer = tuple[Scores | None, dict[str, str] | None]

SERVERS_AT_ONCE = 128
_WORTH_PROCESSES_SECONDS = 10.0  # of work left; to start them takes two or three
_AHEAD = 3  # pieces per process that are handed out before the first of them is done
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def run_method(
    judge: Judge,
    method: Method,
    quantiles: Sequence[float],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> tuple[Scores, float]:
    """Forecast every server from every origin, and score that.

    Parameters
    ----------
    workers : int
        Processes that share the work, where it is worth it.
    watch : callable, optional
        Is shown the errors of every window; then all work is done in this process.

    Returns
    -------
    Scores, and the seconds that it took.

    Raises
    ------
    BacktestError
        If a process ends before its work is done.
    """
    pieces = list(judge.pieces(SERVERS_AT_ONCE))
    scores = Scores(quantiles)
    started = time.perf_counter()
    done = 0
    for number, servers in pieces:
        left = (time.perf_counter() - started) / max(1, done) * (len(pieces) - done)
        if workers > 1 and watch is None and done and left > _WORTH_PROCESSES_SECONDS and _can_travel(method):
            break
        of_piece, errors = score_piece(judge, method, quantiles, (number, servers))
        scores.merge(of_piece)
        done += 1
        if watch is not None:
            watch(number, servers, errors)
        if progress is not None:
            progress(done, len(pieces))
    if done < len(pieces):
        shared = _shared(judge, method, quantiles, pieces[done:], min(workers, len(pieces) - done))
        with contextlib.closing(shared):  # whatever ends this ends the processes, at once
            for of_piece in shared:
                scores.merge(of_piece)
                done += 1
                if progress is not None:
                    progress(done, len(pieces))
    return scores, time.perf_counter() - started


def score_piece(judge: Judge, method: Method, quantiles: Sequence[float], piece: Piece) -> tuple[Scores, Floats]:
    """Forecast some servers from one origin; scores, and the mean absolute error of each window's metrics."""
    number, servers = piece
    scores = Scores(quantiles)
    known = judge.known_at(number, servers)
    errors = scores.add(method.forecast(known, known.n_steps), judge.labels(servers, number))
    return scores, errors


# ---------------------------------------------------------------------------------------------------- several processes
def _can_travel(method: Method) -> bool:
    """Whether a fitted method can be handed to another process."""
    try:
        pickle.dumps(method)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def _shared(
    judge: Judge, method: Method, quantiles: Sequence[float], pieces: Sequence[Piece], workers: int
) -> Generator[Scores, None, None]:
    """Scores of the pieces, in their order, made by processes that end with this one."""

    def result(future: Future[_Answer]) -> Scores:
        scores, error = future.result()
        if error is not None:
            raise BacktestError(error["what"], why=error["why"], fix=error["fix"], document=error["document"])
        assert scores is not None
        return scores

    before = set(multiprocessing.active_children())
    with _one_thread_each():
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),  # a fork would take torch's threads along, half of them
            initializer=_begin,
            initargs=(judge.folder, judge.columns, judge.kinds, method, tuple(quantiles)),
        )
        waiting: deque[Future[_Answer]] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(_score, piece))
                if len(waiting) >= _AHEAD * workers:
                    yield result(waiting.popleft())
            while waiting:
                yield result(waiting.popleft())
        except BrokenProcessPool:
            raise BacktestError(
                f"A process that made forecasts of {method.title} has ended before its work was done.",
                why="Its part of the forecasts is missing, so the method is not scored.",
                fix="Memory is the usual reason: give fewer --workers, or leave the method out of --baselines.",
            ) from None
        except BaseException:  # Ctrl-C, too: nobody waits for a piece that takes minutes
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let each process that starts compute in one thread: there are as many of them as cores."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_work: tuple[Judge, Method, tuple[float, ...]] | None = None  # of a process that was started for it


def _begin(
    folder: Path,
    columns: tuple[int, ...],
    kinds: npt.NDArray[np.int64],
    method: Method,
    quantiles: tuple[float, ...],
) -> None:
    """What a process does first."""
    global _work  # noqa: PLW0603  # the pool gives its processes no other place to keep something
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides what happens
    _work = Judge(folder, columns, kinds), method, quantiles


def _score(piece: Piece) -> _Answer:
    """Scores of a piece, or the four parts of what a user can mend: such an error cannot travel as it is."""
    assert _work is not None
    judge, method, quantiles = _work
    try:
        return score_piece(judge, method, quantiles, piece)[0], None
    except ProductError as error:
        return None, error.as_dict()
