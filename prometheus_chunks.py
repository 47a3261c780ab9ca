"""How what an unfinished import has fetched is kept, so that the same command goes on where it stopped.

One hidden folder per import inside the output folder: a plan, and one file per chunk of time whose name says which.
Only whole chunks have their name. Knows nothing of what is in them, and nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from common_utils import atomic_path, iso_z, read_json, remove_tree, write_json
from data_contract import DataFileError

_PREFIX: Final = ".prometheus-"  # hidden, so that nobody takes what is in it for data
_PLAN: Final = "plan.json"
_CHUNK: Final = re.compile(r"(\d{10})-(\d{5})\.(?:parquet|empty)")
STALE_DAYS: Final = 7


@dataclass
class Plan:
    """What is being fetched, and what is known of it so far.

    Attributes
    ----------
    url : str
        Where from.
    since, until : int
        Beginning of the first step and end of the last one, seconds since 1970.
    step_seconds, window_seconds : int
        The grid, and what `$window` stands for.
    most_series : int
        Most series that one query gave so far.
    found : list of str
        Metrics that have had a value.
    notes : list of str
        What the report shall say.
    """

    url: str
    since: int
    until: int
    step_seconds: int
    window_seconds: int = 0
    most_series: int = 0
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Work:
    """The folder of one import; made by `open_work`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = _read_plan(folder / _PLAN)
        self.done_until = 0
        self.resumed = False
        if self.plan is None:
            _empty(folder)
        else:
            self._find_done(self.plan)

    def begin(self, plan: Plan) -> None:
        """Note what is going to be fetched."""
        self.plan, self.done_until = plan, plan.since
        self.save_plan()

    def save_plan(self) -> None:
        """Write the plan as it is now."""
        assert self.plan is not None
        with writing(self.folder):
            write_json(self.folder / _PLAN, asdict(self.plan))

    def keep(self, steps: int, rows: pa.Table) -> None:
        """Keep the next chunk: so many steps from `done_until` on; most tables hold rows, some times have none."""
        assert self.plan is not None
        ending = "parquet" if rows.num_rows else "empty"
        with writing(self.folder), atomic_path(self.folder / f"{self.done_until:010d}-{steps:05d}.{ending}") as partial:
            if rows.num_rows:
                pq.write_table(rows, partial, compression="zstd", compression_level=1)
        self.done_until += steps * self.plan.step_seconds

    def files(self) -> list[Path]:
        """Files that hold rows, in the order of time."""
        return sorted(self.folder.glob("*.parquet"))

    @property
    def share_done(self) -> float:
        """How much of the time range is there, 0–1."""
        if self.plan is None:
            return 0.0
        return (self.done_until - self.plan.since) / (self.plan.until - self.plan.since)

    @property
    def has_chunks(self) -> bool:
        """Whether anything would be lost without this folder."""
        return self.plan is not None and self.done_until > self.plan.since

    @property
    def standing(self) -> str:
        """How much is kept, and where."""
        return (
            f"{100 * self.share_done:.0f} % of the time range is fetched, up to {iso_moment(self.done_until)} "
            f"({_size_mb(self.folder):.1f} MB in {self.folder})"
        )

    @property
    def kept(self) -> str:
        """What is kept and how to go on, in one sentence; empty if nothing is."""
        return f"{self.standing}; the same command goes on from there." if self.has_chunks else ""

    def remove(self) -> None:
        """Give up what is kept."""
        remove_tree(self.folder)
        self.plan = None

    def _find_done(self, plan: Plan) -> None:
        """Follow the chunks from the beginning; what stands after a gap is of no use."""
        self.done_until = plan.since
        for path in sorted(self.folder.iterdir()):
            match = _CHUNK.fullmatch(path.name)
            end = self.done_until + int(match[2]) * plan.step_seconds if match else 0
            if match and int(match[1]) == self.done_until < end <= plan.until:
                self.done_until = end
            elif path.name != _PLAN:
                _discard(path)
        self.resumed = self.has_chunks


@contextlib.contextmanager
def open_work(out_dir: Path, key: dict[str, Any]) -> Iterator[Work]:
    """The folder of the import that `key` describes, new or as it was left; it is kept if it holds chunks.

    Raises
    ------
    DataFileError
        If the output folder cannot be written, or the same import is at work there.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
    folder = out_dir / f"{_PREFIX}{digest}"
    made = not out_dir.exists()
    with writing(out_dir):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not _lock(handle):
            raise DataFileError(
                f"The same import is at work in {out_dir} already.",
                why="Two that write the same chunks would spoil each other's work.",
                fix="Wait for it, or stop it; then run the command again.",
                document="Docs/IMPORTING.md",
            )
        with writing(out_dir):
            work = Work(folder)
        try:
            yield work
        finally:
            if not work.has_chunks:
                remove_tree(folder)
                if made and out_dir.is_dir() and not any(out_dir.iterdir()):
                    out_dir.rmdir()
    finally:
        os.close(handle)


def sweep(out_dir: Path, own: Path) -> list[str]:
    """Remove what other unfinished imports left here more than a week ago; say what is kept of younger ones."""
    told = []
    for folder in sorted(out_dir.glob(f"{_PREFIX}*")):
        if folder == own or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                if not _lock(handle):
                    continue
                plan = _read_plan(folder / _PLAN)
                what = f"of {plan.url}, {iso_moment(plan.since)} to {iso_moment(plan.until)}," if plan else ""
                if time.time() - folder.stat().st_mtime > STALE_DAYS * 86_400:
                    remove_tree(folder)
                    told.append(f"an unfinished import {what} was older than {STALE_DAYS} days and was removed")
                else:
                    told.append(
                        f"an unfinished import {what} is kept in {folder} ({_size_mb(folder):.1f} MB): its command "
                        f"goes on with it; it is removed after {STALE_DAYS} days"
                    )
            finally:
                os.close(handle)
    return told


def iso_moment(seconds: int) -> str:
    """ISO 8601 of seconds since 1970."""
    return iso_z(datetime.fromtimestamp(seconds, timezone.utc))


def _read_plan(path: Path) -> Plan | None:
    """The plan that a file holds; None if there is none, or it is damaged or of another version."""
    content = read_json(path)
    if set(content) != {each.name for each in fields(Plan)}:
        return None
    numbers = [content[name] for name in ("since", "until", "step_seconds", "window_seconds", "most_series")]
    texts = [content["url"], *_listed(content["found"]), *_listed(content["notes"])]
    if any(type(number) is not int for number in numbers) or any(type(text) is not str for text in texts):
        return None
    plan = Plan(**content)
    whole = 0 < plan.since < plan.until < 10**10 and plan.step_seconds > 0 and plan.window_seconds > 0
    return plan if whole else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def _lock(handle: int) -> bool:
    """Lock a folder; the system lets go of it when the process ends. False if another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {errno.EWOULDBLOCK, errno.EACCES}  # else a file system without locks
    return True


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _discard(path)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell in the product's way what the system refuses."""
    try:
        yield
    except OSError as error:
        raise DataFileError(
            f"{folder} cannot be written: {error.strerror or error}.",
            why="What is fetched is kept there until the import is complete; nothing half-written was left behind.",
            fix="Free some space, or choose another folder with --out_dir, then run the command again.",
            document="Docs/IMPORTING.md",
        ) from error


def _self_check() -> None:
    import tempfile

    rows = pa.table({"timestamp": [1]})
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder) / "new"
        with open_work(out_dir, {"url": "a"}) as work:
            assert work.plan is None
            work.begin(Plan("a", 300, 1500, 300, 300))
            work.keep(2, rows)
            work.keep(1, rows.slice(0, 0))
            (work.folder / "0000009900-00001.parquet").touch()  # after a gap
        with open_work(out_dir, {"url": "a"}) as work:
            assert work.resumed and work.done_until == 1200 and len(work.files()) == 1 and "75 %" in work.kept
            work.remove()
        assert not out_dir.exists() or not any(out_dir.iterdir())
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
