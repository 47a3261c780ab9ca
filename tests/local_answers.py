"""A real HTTP server on loopback that gives the JSON answers it is told to, for tests of those who ask."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx2


class LocalAnswers:
    """Context manager; `content` maps paths to answers (JSON, or plain text if it is a str), other paths are 404."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.content.get(self.path)
                body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(200 if self.path in answers.content else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalAnswers:
        self._thread.start()
        self.client = httpx2.Client(base_url=self.url, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
