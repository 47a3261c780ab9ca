"""How a SQLite file of one process is opened, checked, changed all or nothing, and set aside when it is damaged.

WAL with `synchronous=FULL`: when a transaction has ended, its content survives a crash of the process or the machine.
Knows nothing of what the tables hold.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common_utils import utc_now
from data_contract import DaemonError, DataFileError
from sqlite_pages import HEADER_BYTES, header_is_sound

DOCUMENT = "Docs/DAEMON.md"


@dataclass(frozen=True)
class Schema:
    """What a file of ours is.

    Attributes
    ----------
    application_id : int
        Tells it from another program's (`PRAGMA application_id`).
    version : int
        Of its tables (`PRAGMA user_version`).
    tables : sequence of str
        Statements that make them.
    content : str
        What it holds, for messages, such as `alerts`.
    """

    application_id: int
    version: int
    tables: Sequence[str]
    content: str


class DamagedError(Exception):
    """The file is no SQLite file any more, or its pages or what they hold contradict each other."""


class SqliteFile:
    """A SQLite file that several threads of one process use.

    Parameters
    ----------
    path : Path
        Its folder is made if it is not there.
    schema : Schema
    read : callable, optional
        Reads what is to be known of the content when the file is opened, and again from a new file if the one that was
        there is damaged. A KeyError or DamagedError from it says that the content contradicts itself: damaged, too.

    Attributes
    ----------
    path : Path
    set_aside : Path or None
        Where a damaged file was moved when this one was opened.

    Raises
    ------
    DaemonError
        If another process uses the file, or if it belongs to a newer release or to another program.
    DataFileError
        If it cannot be read or written.
    """

    def __init__(self, path: Path, schema: Schema, read: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._schema = schema
        self._read = read
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except DamagedError:
                self.set_aside = self._move_aside()
                self._connection = self._open()
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Write everything into the one file and release it. May be called again."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: commits with a flush to disk, or rolls back; one thread at a time.

        Raises
        ------
        DataFileError
            If the disk is full or fails. Nothing is changed then.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise DataFileError(
                    f"{self.path.name} cannot be written: {error}.",
                    why="What is not on disk does not count, so nothing was changed; what was there stays.",
                    fix="Free some space on the disk of TFT_HISTORY_DIR and send it again.",
                    document=DOCUMENT,
                ) from error
            except BaseException:
                self._roll_back()
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, to read from; one thread at a time.

        Raises
        ------
        DataFileError
            If the disk fails.
        """
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise DataFileError(
                    f"{self.path.name} cannot be read: {error}.",
                    why=f"Its {self._schema.content} cannot be shown.",
                    fix="Restart the daemon: it checks the file, sets a damaged one aside and goes on with a new one.",
                    document=DOCUMENT,
                ) from error

    # -------------------------------------------------------------------------------------------------------- internal
    def _open(self) -> sqlite3.Connection:
        if self._header_is_damaged():  # SQLite would throw the journal of such a file away
            raise DamagedError
        connection = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            # One process owns the file: nobody else can change it meanwhile, and no shared memory is needed
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA trusted_schema = OFF")
            self._check_owner(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in self._schema.tables:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self._schema.application_id}")
                connection.execute(f"PRAGMA user_version = {self._schema.version}")
            connection.execute("COMMIT")
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise DamagedError
            if not self._tables_are_ours(connection):
                raise DamagedError
            self._read(connection)
        except sqlite3.OperationalError:  # locked, no space, no permission: not the file's fault
            connection.close()
            raise
        except (sqlite3.DatabaseError, KeyError) as error:  # no database, or malformed
            connection.close()
            raise DamagedError from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty and (owner != self._schema.application_id or version == 0) and self._tables_are_ours(connection):
            raise DamagedError  # nobody else has such tables: it is the mark that changed
        if not empty and owner != self._schema.application_id:
            raise DaemonError(
                f"{self.path} was not written by this product.",
                why="Its content means something else, and to use it would destroy it.",
                fix="Move the file away, or choose another folder with TFT_HISTORY_DIR.",
                document=DOCUMENT,
            )
        if version > self._schema.version:
            raise DaemonError(
                f"{self.path} has version {version}; this release reads up to {self._schema.version}.",
                why="A newer release wrote it, and this one could misread what it holds.",
                fix="Start the newer release again, or choose another folder with TFT_HISTORY_DIR.",
                document=DOCUMENT,
            )

    def _header_is_damaged(self) -> bool:
        try:
            with self.path.open("rb") as stream:
                header = stream.read(HEADER_BYTES)
        except FileNotFoundError:
            return self._beside("-wal").exists()
        # A file is empty until its first transaction, which is before it has a journal of this kind
        return not header_is_sound(header) and (bool(header) or self._beside("-wal").exists())

    def _tables_are_ours(self, connection: sqlite3.Connection) -> bool:
        made = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        there = [sql.split() for (sql,) in connection.execute(made)]  # however its lines are broken
        return there == [sql.split() for sql in self._schema.tables]

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:  # some errors have rolled back by themselves
                self._connection.execute("ROLLBACK")

    def _move_aside(self) -> Path:
        """Move the damaged file and its journal out of the way, together, under a name that tells when."""
        target = self.path.with_name(f"{self.path.name}.damaged-{utc_now():%Y%m%dT%H%M%S%fZ}")
        for suffix in ("", "-wal", "-shm"):
            source = self._beside(suffix)
            if source.exists():
                source.replace(target.with_name(target.name + suffix))
        target.touch()  # its journal may be all that was left
        return target

    def _unusable(self, error: Exception) -> DaemonError | DataFileError:
        if "locked" in str(error):
            return DaemonError(
                f"{self.path} is in use by another process.",
                why="One daemon owns its files; two would overwrite each other's.",
                fix="Stop the other daemon, or give this one a folder of its own with TFT_HISTORY_DIR.",
                document=DOCUMENT,
            )
        return DataFileError(
            f"{self.path} cannot be opened: {error}.",
            why=f"Without the file the daemon would forget its {self._schema.content}, so it does not start.",
            fix="Check the folder's permissions and free space, or choose another with TFT_HISTORY_DIR.",
            document=DOCUMENT,
        )


def _self_check() -> None:
    import tempfile

    schema = Schema(1, 1, ("CREATE TABLE t (x INTEGER)",), "numbers")
    with tempfile.TemporaryDirectory() as folder:
        file = SqliteFile(Path(folder) / "a.sqlite3", schema)
        with file.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (7)")
        file.close()
        file = SqliteFile(Path(folder) / "a.sqlite3", schema)
        with file.reading() as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(7,)]
        file.close()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
