"""The admin port: /metrics, /livez and /readyz.

Alive is the poll loop's heartbeat and nothing else: an outage of ClickHouse must not restart
consumers. Ready is a member of the group whose partitions all have a plan; each says why not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

Health = Callable[[], tuple[bool, dict[str, object]]]

_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"


class Admin:
    """Serves in a thread of its own, until `close`. Raises OSError where the port is taken."""

    def __init__(
        self, host: str, port: int, page: Callable[[], bytes], livez: Health, readyz: Health
    ) -> None:
        def health(answer: Health) -> tuple[int, bytes, str]:
            well, body = answer()
            return 200 if well else 503, orjson.dumps(body), "application/json"

        routes: dict[str, Callable[[], tuple[int, bytes, str]]] = {
            "/metrics": lambda: (200, page(), _METRICS_TYPE),
            "/livez": lambda: health(livez),
            "/readyz": lambda: health(readyz),
        }

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                route = routes.get(self.path.partition("?")[0])
                status, body, kind = (
                    route()
                    if route is not None
                    else (
                        404,
                        b'{"detail":"there are /metrics, /livez, /readyz"}',
                        "application/json",
                    )
                )
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Being looked at is not news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="admin", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
