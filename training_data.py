"""How contract data of any size becomes a fleet to learn from: on the 5-minute grid, on disk, mapped instead of read.

    data = load_fleet(Path("training/server_metrics.parquet"), Path("models/runs/…/fleet"))
    data.grid                                     # a FleetGrid over memory-mapped files
    open_fleet(Path("models/runs/…/fleet"))       # the same in another process

Files are read in pieces, at least twice: to judge them, then to average them, as many steps at a time as fit into
memory. What is kept in memory grows neither with the rows nor with the steps. What a training may not see, later rows
and held-out servers, does not reach the grid. Knows nothing of windows or tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from common_utils import write_json, written_together
from contract_parquet import iter_frames
from data_contract import (
    REQUIRED_COLUMNS,
    SERVER_NAME,
    TIMESTAMP,
    ContractError,
    DataFileError,
    ProductError,
    TrainingError,
    shorten,
)
from data_validator import Progress, judge_valid
from fleet_grid import MAX_GRID_CELLS, FleetGrid, GridRows, microseconds_of, step_of, time_of
from grid_averages import BYTES_PER_CELL, N_METRICS, STEP_MICROSECONDS, GridAverages
from training_options import Restrictions, held_out_servers

VALUES_FILE = "values.npy"
STATES_FILE = "states.npy"
FLEET_FILE = "fleet.json"
_FORMAT = 1

_CELL_BYTES = 4 * N_METRICS + 1  # on disk
_CELLS_AT_ONCE = 600_000_000 // (BYTES_PER_CELL + _CELL_BYTES)  # servers × steps that are averaged at a time, in 600 MB
_EMPTY_CELLS_PER_ROW = 50  # in a grid too large for memory: more say that a clock was wrong
_READ_BYTES = 1 << 22
_UNHEARD_OF, _HELD_OUT = -1, -2  # places of servers that are not in the grid


@dataclass(frozen=True)
class TrainingData:
    """A fleet to learn from.

    Attributes
    ----------
    grid : FleetGrid
        Its arrays are mapped from files, read-only.
    fingerprint : str
        SHA-256 over the grid: server names, profiles, first step, averages and states. The same data gives the same,
        however it is cut into files; rows in another order may differ from it by the rounding of an average.
    rows : int
        Rows that were averaged.
    restrictions : Restrictions
        What was kept from the grid.
    held_out : tuple of str
        Servers that were.
    """

    grid: FleetGrid
    fingerprint: str
    rows: int
    restrictions: Restrictions = field(default_factory=Restrictions)
    held_out: tuple[str, ...] = ()


def load_fleet(
    data_path: Path, folder: Path, progress: Progress | None = None, restrictions: Restrictions | None = None
) -> TrainingData:
    """Validate contract data strictly, average it onto the 5-minute grid and keep that in a folder.

    The files appear in the folder together when all of them are complete, or not at all; earlier ones are replaced.

    Parameters
    ----------
    data_path : Path
        Parquet file, or folder of them.
    folder : Path
        Where to keep the grid; 17 bytes per server and 5 minutes.
    progress : callable, optional
        Called with the rows done and the rows in all; half of a row's work is to judge it, half to average it.
    restrictions : Restrictions, optional
        What is kept from the grid. All rows are judged all the same; all of them make up the fleet from which servers
        are held out.

    Raises
    ------
    DataFileError, ContractError
        If the data cannot be read or breaks the contract, or if its time range is absurd for the number of rows.
    TrainingError
        If the grid cannot be written, if the disk has not enough room for it, or if nothing is left by the
        restrictions, or no server can be held out.
    """
    restrictions = restrictions or Restrictions()
    report, profile_of = judge_valid(data_path, None if progress is None else _half(progress, 0))
    if report.start is None or report.end is None or not profile_of:  # no rows: judged as such before
        raise ContractError.from_findings(str(data_path), ["there are no rows"])
    first = step_of(report.start)
    grid = _permitted(data_path, profile_of, first, step_of(report.end) + 1, report.rows, restrictions)
    if grid.cells > MAX_GRID_CELLS and grid.cells > _EMPTY_CELLS_PER_ROW * report.rows:
        raise ContractError(
            f"{len(grid.names):,} servers from {report.start:%Y-%m-%d} to {time_of(first + grid.n_steps):%Y-%m-%d} are "
            f"{grid.cells:,} cells of 5 minutes, with {report.rows:,} rows in them.",
            why="Every server has one cell per 5 minutes of the whole time range; a clock that was once wrong "
            "stretches it over years.",
            fix="Remove the rows with wrong times, or use a shorter time range.",
        )
    with _disk_trouble_told(folder), written_together(folder, [VALUES_FILE, STATES_FILE, FLEET_FILE]) as aside:
        free = shutil.disk_usage(aside).free
        if free < grid.cells * _CELL_BYTES:
            raise _no_room(folder, grid.cells * _CELL_BYTES, free)
        passed, averaged = _average(data_path, grid, aside, None if progress is None else _half(progress, 1))
        if passed != grid.rows:
            raise _changed(data_path)
        description = {"names": grid.names, "profiles": grid.profiles, "first_step": grid.first_step}
        fingerprint = _fingerprint(description, [aside / VALUES_FILE, aside / STATES_FILE])
        content = {"format": _FORMAT, **description, "rows": averaged, "fingerprint": fingerprint}
        content |= {"restrictions": restrictions.as_dict(), "held_out": grid.held_out}
        write_json(aside / FLEET_FILE, content)
    return open_fleet(folder)


def open_fleet(folder: Path) -> TrainingData:
    """Map what `load_fleet` has left in a folder.

    Raises
    ------
    TrainingError
        If it is not there, or not whole.
    """
    try:
        content = json.loads((folder / FLEET_FILE).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError("it is of another version")
        names, profiles = (tuple(str(text) for text in content[key]) for key in ("names", "profiles"))
        values, states = (
            np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in (VALUES_FILE, STATES_FILE)
        )
        n_steps = states.shape[1]
        fits = values.shape == (len(names), n_steps, N_METRICS) and states.shape == (len(profiles), n_steps)
        if not fits or values.dtype != np.float32 or states.dtype != np.int8:
            raise ValueError("its parts do not fit together")
        grid = FleetGrid(names, profiles, int(content["first_step"]), values, states)
        restrictions = Restrictions.from_dict(content["restrictions"])
        held_out = tuple(str(name) for name in content["held_out"])
        return TrainingData(grid, str(content["fingerprint"]), int(content["rows"]), restrictions, held_out)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise TrainingError(
            f"The averaged data in {folder} cannot be used: {error}.",
            why="It is made of the measurements before a training begins, and every process of the training reads it.",
            fix="Start the training again with the same --data: it is made anew.",
        ) from error


def copy_servers(grid: FleetGrid, servers: Sequence[int], folder: Path) -> FleetGrid:
    """Some of the servers of a fleet that is larger than the memory, copied to a folder and mapped from there.

    Raises
    ------
    TrainingError
        If they cannot be written.
    """
    names, profiles = (tuple(texts[server] for server in servers) for texts in (grid.names, grid.profiles))
    with _disk_trouble_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, whole in ((VALUES_FILE, grid.values), (STATES_FILE, grid.states)):
            with _ArrayFile(folder / name, (len(servers), *whole.shape[1:]), whole.dtype) as file:
                for server in servers:
                    file.append(whole[server])
    values, states = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (VALUES_FILE, STATES_FILE))
    return FleetGrid(names, profiles, grid.first_step, np.asarray(values), np.asarray(states))


@dataclass(frozen=True)
class _Target:
    """The grid that is to be made: which servers and steps are in it, and how many rows its time has."""

    names: tuple[str, ...]
    profiles: tuple[str, ...]
    first_step: int
    n_steps: int
    rows: int
    held_out: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        return len(self.names) * self.n_steps


def _permitted(
    data_path: Path, profile_of: dict[str, str], first: int, end: int, rows: int, restrictions: Restrictions
) -> _Target:
    """Grid of what may be seen of a fleet that has rows from the step `first` to before `end`."""
    names, held_out = frozenset(profile_of), held_out_servers(profile_of, restrictions.hold_out)
    if restrictions.hold_out > 0 and not held_out:
        raise TrainingError(
            f"No server can be held out of {len(names)} of the profiles {shorten(sorted(set(profile_of.values())))}.",
            why="At least one server of each profile must be learned from, or its role would be unknown altogether.",
            fix="Leave --hold-out-servers out, or bring more servers of a profile.",
            document="Docs/TRAINING.md",
        )
    if restrictions.until is not None and step_of(restrictions.until) < end:
        end = step_of(restrictions.until)
        names, rows = _seen_before(data_path, end)
    names -= held_out
    if not names:
        raise TrainingError(
            f"No server that may be learned from has a row before {time_of(end):%Y-%m-%d %H:%M} UTC.",
            why="By --until and --hold-out-servers, nothing is left to learn from.",
            fix=f"Give a later --until (the data begins at {time_of(first):%Y-%m-%d %H:%M} UTC), or leave it out.",
            document="Docs/TRAINING.md",
        )
    kept = tuple(sorted(names))
    return _Target(kept, tuple(profile_of[name] for name in kept), first, end - first, rows, tuple(sorted(held_out)))


def _seen_before(data_path: Path, end: int) -> tuple[frozenset[str], int]:
    """Servers that have a row before a step, and how many rows there are; no other server may become known."""
    names: set[str] = set()
    rows = 0
    bound = end * STEP_MICROSECONDS
    for frame in iter_frames(data_path, (TIMESTAMP, SERVER_NAME), period=(-(2**62), bound)):
        before = microseconds_of(frame[TIMESTAMP]) < bound
        names.update(map(str, frame.loc[before, SERVER_NAME].unique()))
        rows += int(before.sum())
    return frozenset(names), rows


def _average(data_path: Path, grid: _Target, folder: Path, progress: Progress | None) -> tuple[int, int]:
    """Write the averages and states of all rows of the grid's time; returns how many there were, and are in the grid.

    Held-out servers have rows of that time, too.
    """
    n_servers = len(grid.names)
    place_of = {name: place for place, name in enumerate(grid.names)} | dict.fromkeys(grid.held_out, _HELD_OUT)
    width = max(1, _CELLS_AT_ONCE // n_servers)
    done = averaged = 0
    with (
        _ArrayFile(folder / VALUES_FILE, (n_servers, grid.n_steps, N_METRICS), np.dtype(np.float32)) as values,
        _ArrayFile(folder / STATES_FILE, (n_servers, grid.n_steps), np.dtype(np.int8)) as states,
    ):
        for left in range(0, grid.n_steps, width):
            right = min(left + width, grid.n_steps)
            averages = GridAverages(n_servers, right - left)
            period = ((grid.first_step + left) * STEP_MICROSECONDS, (grid.first_step + right) * STEP_MICROSECONDS)
            for frame in iter_frames(data_path, REQUIRED_COLUMNS, period=period):
                rows = GridRows.of(frame, place_of)
                steps = rows.steps - grid.first_step
                inside = (steps >= left) & (steps < right)
                if not inside.all():
                    rows, steps = rows[inside], steps[inside]
                if (rows.servers == _UNHEARD_OF).any():
                    raise _changed(data_path)
                done += len(steps)
                if grid.held_out:
                    seen = rows.servers >= 0
                    rows, steps = rows[seen], steps[seen]
                averages.add(rows.servers, steps - left, rows.instants, rows.values, rows.states)
                averaged += len(steps)
                if progress is not None:
                    progress(min(done, grid.rows), grid.rows)
            values.write_steps(left, averages.means())
            states.write_steps(left, averages.states)
    return done, averaged


class _ArrayFile:
    """A `.npy` file that is written so many steps at a time, as plain writes: a full disk is an error, not a signal."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file: BinaryIO = path.open("wb")
        self._per_server, self._per_step = (math.prod(shape[axis:]) * dtype.itemsize for axis in (1, 2))
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._begin = self._file.tell()

    def __enter__(self) -> _ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, server: npt.NDArray[Any]) -> None:
        """Write all values of the next server, (n_steps, …)."""
        self._file.write(np.ascontiguousarray(server).data)

    def write_steps(self, left: int, array: npt.NDArray[Any]) -> None:
        """Write the values of all servers, (n_servers, steps, …), from a step on."""
        if array[:1].nbytes == self._per_server:
            self._file.write(array.data)
            return
        for server, row in enumerate(array):
            self._file.seek(self._begin + server * self._per_server + left * self._per_step)
            self._file.write(row.data)


def _fingerprint(description: dict[str, Any], files: list[Path]) -> str:
    digest = hashlib.sha256(json.dumps(description).encode())
    for path in files:
        with path.open("rb") as stream:
            for block in iter(lambda stream=stream: stream.read(_READ_BYTES), b""):  # type: ignore[misc]
                digest.update(block)
    return digest.hexdigest()


def _half(progress: Progress, already: int) -> Callable[[int, int], None]:
    """Tell the progress of the first or second half of the work."""
    return lambda done, rows: progress((already * rows + done) // 2, rows)


@contextmanager
def _disk_trouble_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except ProductError:  # some of ours are OSErrors, too
        raise
    except OSError as error:
        raise TrainingError(
            f"The averaged data cannot be written to {folder}: {error.strerror or error}.",
            why="The training reads it from there; nothing half-written was left behind.",
            fix="Free some space, mend the permissions or choose another --models-dir, then train again.",
        ) from error


def _no_room(folder: Path, needed: int, free: int) -> TrainingError:
    return TrainingError(
        f"The averaged data needs {needed / 1e9:,.1f} GB in {folder}, and {free / 1e9:,.1f} GB are free.",
        why="It has one cell per server and 5 minutes of the whole time range, and does not have to fit into memory.",
        fix="Free some space, choose another --models-dir, or use a shorter time range.",
    )


def _changed(data_path: Path) -> DataFileError:
    return DataFileError(
        f"{data_path} changed while it was read.",
        why="What was judged is then not what would be learned from.",
        fix="Wait until nothing writes to it any more, then train again.",
    )


def _self_check() -> None:
    import tempfile

    import pandas as pd

    from contract_parquet import open_writer
    from data_contract import METRIC_COLUMNS, PROFILE, SERVER_NAME, STATE, TIMESTAMP

    times = pd.date_range("2026-01-01", periods=500, freq="30s", tz="UTC")
    frame = pd.DataFrame({TIMESTAMP: times, SERVER_NAME: "ppweb001", STATE: "healthy", PROFILE: "web_api"})
    frame[list(METRIC_COLUMNS)] = np.random.default_rng(0).uniform(1, 99, (500, N_METRICS))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server_metrics.parquet"
        with open_writer(file) as writer:
            writer.write(frame)
        data = load_fleet(file, Path(folder) / "fleet")
        assert data.rows == 500 and data.grid.n_steps == 50 and not data.grid.values.flags.writeable
        assert np.allclose(data.grid.values[0, 0], frame[list(METRIC_COLUMNS)][:10].mean(), rtol=1e-5)
        assert open_fleet(Path(folder) / "fleet").fingerprint == data.fingerprint
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
