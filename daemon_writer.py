"""How rows of many requests reach the disk: one thread writes, and whoever waits shares one flush (group commit).

Knows nothing of HTTP: it takes contract frames and says which rows were new once they are on disk.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt
import pandas as pd
import structlog

from history_store import HistoryStore

log = structlog.stdlib.get_logger(__name__)

_GROUP_ROWS = 500_000  # rows of one transaction at most, so that nobody waits long for the flush

Fresh = npt.NDArray[np.bool_]


class RowWriter:
    """Appends frames to the store, in the order in which they came, and passes new rows on.

    Parameters
    ----------
    store : HistoryStore
    on_new_rows : callable
        Called in the writer's thread with what each frame has added, after it is on disk and before the waiting request
        is answered.
    """

    def __init__(self, store: HistoryStore, on_new_rows: Callable[[pd.DataFrame], None]) -> None:
        self._store = store
        self._on_new_rows = on_new_rows
        self._queue: queue.SimpleQueue[tuple[pd.DataFrame, Future[Fresh]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="history-writer", daemon=True)
        self._thread.start()

    def submit(self, frame: pd.DataFrame) -> Future[Fresh]:
        """Queue a frame; the future tells which rows changed anything, or fails as `HistoryStore.append` does."""
        future: Future[Fresh] = Future()
        self._queue.put((frame, future))
        return future

    def stop(self) -> None:
        """Write what is queued and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            group = [self._queue.get()]
            rows = 0
            while group[-1] is not None and (rows := rows + len(group[-1][0])) < _GROUP_ROWS:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            waiting = [item for item in group if item is not None]
            if waiting:
                self._write([frame for frame, _ in waiting], [future for _, future in waiting])
            if group[-1] is None:
                return

    def _write(self, frames: list[pd.DataFrame], futures: list[Future[Fresh]]) -> None:
        # A request that was given up while it waited has cancelled its future; its rows are stored all the same.
        awaited = [future.set_running_or_notify_cancel() for future in futures]
        try:
            stored = self._store.append_all(frames)
        except Exception as error:  # noqa: BLE001 - whoever waits is told, and the next ones are served
            for future, is_awaited in zip(futures, awaited, strict=True):
                if is_awaited:
                    future.set_exception(error)
            return
        for each, future, is_awaited in zip(stored, futures, awaited, strict=True):
            if each.changed.any():
                try:
                    self._on_new_rows(each.added)
                except Exception:
                    log.exception("rows are on disk but could not be taken into memory; a restart reads them again")
            if is_awaited:
                future.set_result(each.changed)
