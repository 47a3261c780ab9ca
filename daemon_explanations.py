"""Explanations of the served forecasts: made when asked for, one at a time, and remembered.

One takes some hundredths of a second of a core, so that nobody may keep the forecasts waiting by asking often.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from daemon_answers import to_json
from daemon_core import Daemon
from daemon_problems import RequestError, busy
from forecast_loop import PredictionSet

_REMEMBERED: Final = 500


class Explainer:
    """What /explain answers, ready as bytes.

    Parameters
    ----------
    daemon : Daemon
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._at_work = threading.Lock()
        self._known: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def explain(self, published: PredictionSet, name: str, wait_seconds: float = 1.0) -> bytes:
        """Answer with what drives the forecast of one server.

        Parameters
        ----------
        wait_seconds : float
            For how long to wait for those who asked before.

        Raises
        ------
        RequestError
            404 if the server has no forecast, 503 if others are being served or the model has just changed.
        """
        key = (self._daemon.set_id(published), name)
        found = self._known.get(key)
        if found is not None:
            return found
        self._daemon.server_prediction(published, name)  # says why there is none, if there is none
        if not self._at_work.acquire(timeout=wait_seconds):
            what = "Other forecasts are being explained."
            raise busy(what, status=503, kind="busy", retry_after_seconds=1)
        try:
            content = to_json(self._daemon.explain(published, name))
        finally:
            self._at_work.release()
        self._known[key] = content
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return content

    def explain_some(self, published: PredictionSet, names: Sequence[str], seconds: float) -> bytes:
        """Answer with a JSON object of explanations by name, as many as can be made in a given time, the first first.

        A server without a forecast is left out, and so are those that the time was too short for: who asks again gets
        more of them.
        """
        until = time.monotonic() + seconds
        given: list[bytes] = []
        for name in dict.fromkeys(names):
            known = (self._daemon.set_id(published), name) in self._known
            if not known and time.monotonic() >= until:
                continue
            try:
                given.append(to_json(name) + b":" + self.explain(published, name, wait_seconds=0.05))
            except RequestError:
                continue
        return b"{" + b",".join(given) + b"}"
