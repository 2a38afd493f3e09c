"""The page's HTTP server: a closed set of files, and the figures.

It listens on 127.0.0.1, and answers only requests that name this machine as their host, so that no
foreign site can read the figures under a name of its own. Scripts come from here alone.
"""

from __future__ import annotations

import html
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.page.figures import Figures

_STATIC = Path(__file__).with_name("static")
_HOSTS = {"127.0.0.1", "localhost", "[::1]"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SITE = "/site/"


class PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], figures: Figures, shim: str) -> None:
        self.figures = figures
        self.shim = shim
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in _HOSTS:
            return self._answer(403, b"this page is for this machine only\n", "text/plain")
        path = urlsplit(self.path).path
        if path == "/healthz":
            return self._answer(200, b"ok\n", "text/plain")
        if path == "/figures.json":
            return self._answer(200, self.server.figures.document(), "application/json")
        return self._file(path)

    do_HEAD = do_GET

    def _file(self, path: str) -> None:
        name = "index.html" if path == "/" else path.removeprefix("/")
        if path.startswith(_SITE):  # its pages are made in the browser, at any path
            name = "site.html"
        # Compared with the names that there are, so that no path leads out of the folder.
        for file in _STATIC.iterdir():
            if file.name == name:
                content = file.read_bytes()
                if file.suffix == ".html":
                    shim = html.escape(self.server.shim).encode()
                    content = content.replace(b"{{shim}}", shim)
                return self._answer(200, content, _TYPES[file.suffix])
        return self._answer(404, b"not found\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        shim = self.server.shim
        policy = (
            f"default-src 'self'; script-src 'self' {shim}; connect-src 'self' {shim}; "
            "img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """One request a second from each browser is nothing to keep."""
