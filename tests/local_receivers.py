"""Receivers of alerts on loopback: a real Alertmanager, and a web server that takes webhooks and fails when told to."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
from local_prometheus import Program, free_port

MISSING = [name for name in ("prometheus-alertmanager", "amtool") if shutil.which(name) is None]
WHY_NOT = f"not installed: {', '.join(MISSING)} (Debian: prometheus-alertmanager)"


class Alertmanager(Program):
    """A real Alertmanager on a free port; what it notifies of goes to `receiver_url`."""

    def __init__(self, folder: Path, receiver_url: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        route = {
            "receiver": "shift",
            "group_by": ["profile"],
            "group_wait": "1s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        }
        hooks = [{"url": receiver_url, "send_resolved": True}]
        settings = {"route": route, "receivers": [{"name": "shift", "webhook_configs": hooks}]}
        (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
        super().__init__(
            folder,
            "prometheus-alertmanager",
            f"--config.file={folder / 'settings.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        )

    def start(self) -> None:
        super().start()
        try:
            self.wait_for(f"{self.url}/-/ready")
        except BaseException:
            self.stop()
            raise

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that it takes for open."""
        found: list[dict[str, Any]] = httpx2.get(f"{self.url}/api/v2/alerts", trust_env=False).json()
        return found

    def groups(self) -> dict[str, list[str]]:
        """Servers by profile, as it groups them."""
        groups = httpx2.get(f"{self.url}/api/v2/alerts/groups", trust_env=False).json()
        return {
            group["labels"]["profile"]: sorted(each["labels"]["server_name"] for each in group["alerts"])
            for group in groups
        }


class LocalReceiver:
    """Context manager: a web server that keeps what is posted to it.

    Parameters
    ----------
    answer : callable
        Given how many requests came before, says the status; None keeps the request waiting until the server ends.
    """

    def __init__(self, answer: Callable[[int], int | None] = lambda _: 200, port: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []  # headers (lower case) and body
        self._over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = answer(len(receiver.requests))
                receiver.requests.append(({name.lower(): text for name, text in self.headers.items()}, body))
                if status is None:
                    receiver._over.wait(60)
                    return
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> LocalReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was posted, as JSON."""
        return [json.loads(body) for _, body in list(self.requests)]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events of all bodies."""
        return [event for body in self.bodies for event in body["events"]]
