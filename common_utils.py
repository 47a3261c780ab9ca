"""Leaf helpers that know nothing of the domain: atomic writes, checksums, UTC times, the step grid, logging set-up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

_PARTIAL = ".partial"
_ASIDE = ".writing-"  # hidden, so that nobody takes what is in it for data
_ABANDONED_SECONDS = 60.0  # work is locked well within this time after it was begun


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str], mode: int | None = None) -> Iterator[Path]:
    """Give a path beside `target` to write to; it takes `target`'s place only when the block ends without an error.

    The data is flushed to disk before the rename, so that after a crash or a full disk either the old or the new file
    is there, whole. What runs that were killed have left of it is removed.

    Parameters
    ----------
    mode : int, optional
        Permissions of the file, for what only its owner may read; those that the umask leaves if left out.

    Raises
    ------
    OSError
        If the folder cannot be written, the disk is full, or `target` is a device or pipe, whose place no file may
        take; `target` is then untouched.
    """
    target = Path(target)
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise OSError(errno.EINVAL, "It is a device or a pipe, not a file", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        _remove_if_abandoned(left)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent)
    partial = Path(name)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask if mode is None else mode)  # mkstemp: only the owner may read it
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def written_together(folder: str | os.PathLike[str], names: Sequence[str], stale: Sequence[str] = ()) -> Iterator[Path]:
    """Give a hidden folder inside `folder` to write to; its files `names` move to `folder` when the block ends well.

    They appear together or not at all: if one cannot be moved, those that were there before are put back, and Ctrl-C
    waits until all are moved. A name may also be that of a folder of Parquet parts (a partitioned data set); such a
    folder, but no other, is replaced like a file. Files called `stale` belong to what is replaced and go away with it.
    Work folders of runs that were killed are removed.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full; its files are then as they were.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        with _locked(aside):
            yield aside
            with uninterrupted():
                _move_together(aside, folder, names, stale)
    finally:
        remove_tree(aside)


def _move_together(aside: Path, folder: Path, names: Sequence[str], stale: Sequence[str]) -> None:
    for name in names:
        for path in [aside / name, *(aside / name).rglob("*")]:
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
    before = aside / ".before"
    before.mkdir()
    for name in (*names, *stale):
        target = folder / name
        if target.is_dir() and not _holds_parquet_only(target):
            raise IsADirectoryError(errno.EISDIR, f"{target} is a folder")
        if target.is_file() and (name in stale or (aside / name).is_file()):
            try:
                os.link(target, before / name)
            except OSError:  # a file system without hard links
                shutil.copy2(target, before / name)
    touched: list[str] = []
    try:
        for name in names:
            touched.append(name)
            _put_aside(folder / name, before / name)
            (aside / name).replace(folder / name)
        for name in stale:
            touched.append(name)
            _put_aside(folder / name, before / name)
            _remove(folder / name)
    except BaseException:
        for name in touched:
            if (before / name).exists():
                _remove(folder / name)
                (before / name).replace(folder / name)
            elif not (aside / name).exists():  # it has moved, and nothing was there before
                _remove(folder / name)
        raise


def _put_aside(path: Path, before: Path) -> None:
    """Move what a file cannot simply replace; plain files were kept already."""
    if not before.exists() and os.path.lexists(path):
        path.replace(before)


def _holds_parquet_only(folder: Path) -> bool:
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return bool(files) and all(path.suffix == ".parquet" for path in files)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; the system lets go of it when the process ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept up there either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Remove work folders that no process holds any more."""
    for aside in folder.glob(f"{_ASIDE}*"):
        _remove_if_abandoned(aside, os.O_DIRECTORY)


def _remove_if_abandoned(work: Path, flags: int = 0) -> None:
    """Remove what a killed process has left: it was not written to for a while, and nobody holds its lock."""
    try:
        if time.time() - work.stat().st_mtime < _ABANDONED_SECONDS:
            return
        handle = os.open(work, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(work)
    except OSError:  # somebody is at work there
        return
    finally:
        os.close(handle)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended, so that steps that belong together are not torn apart."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted by signals
        return
    came: list[tuple[int, FrameType | None]] = []
    former = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        if came and callable(former):
            former(*came[0])


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically, indented and with a final newline; NaN and infinity are refused (RFC 8259 has none)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of a JSON object file; empty if there is no such file or it holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def move_link(link: Path, target: Path) -> None:
    """Point the symbolic link `link` to `target` (relative, so that the folder may be moved) in one atomic step."""
    partial = link.with_name(f".{link.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    try:
        partial.replace(link)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def remove_tree(path: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 hex digits (FIPS 180-4)."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def utc_now() -> datetime:
    """Present moment, aware, UTC."""
    return datetime.now(timezone.utc)


def iso_z(moment: datetime) -> str:
    """ISO 8601 with a final `Z`; naive times are UTC. Sub-second digits only where there are some."""
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def floor_to_step(moment: datetime, step_minutes: int) -> datetime:
    """Start of the step of the UTC grid that `moment` falls in."""
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    step = timedelta(minutes=step_minutes)
    return epoch + (moment - epoch) // step * step


def configure_logging(level: str = "INFO", *, json_lines: bool = False) -> None:
    """Set up structlog and the standard library's loggers to write to standard error; called by commands, once."""
    import structlog

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json_lines
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,  # the usual one prints local variables: keys, too
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([structlog.processors.format_exc_info] if json_lines else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _self_check() -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "a.json"
        write_json(target, {"a": 1})
        try:
            with atomic_path(target) as partial:
                partial.write_text("half")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert json.loads(target.read_text()) == {"a": 1}
        assert [path.name for path in Path(folder).iterdir()] == ["a.json"]
    moment = datetime(2026, 1, 5, 12, 34, 56, tzinfo=timezone(timedelta(hours=2)))
    assert iso_z(floor_to_step(moment, 5)) == "2026-01-05T10:30:00Z"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
