"""`python -m deploy.local.page`: serve the page until SIGTERM or SIGINT.

ClickHouse's URL comes as PENSTOCK_CLICKHOUSE_URL, not as a flag: it may hold a password.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from deploy.local.page.figures import ClickHouse, Figures
from deploy.local.page.server import PageServer
from deploy.local.waiting import HOST


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.page", description=__doc__)
    parser.add_argument("--port", type=int, default=8088)
    parser.add_argument("--shim", default=f"http://{HOST}:8080", help="where events are posted")
    parser.add_argument("--consumer", default=f"http://{HOST}:9401", help="its admin address")
    parser.add_argument("--status", type=Path, default=Path(".penstock/status.json"))
    options = parser.parse_args(argv)
    url = os.environ.get("PENSTOCK_CLICKHOUSE_URL", f"http://{HOST}:8123/penstock")
    figures = Figures(ClickHouse(url), options.consumer, options.status)
    try:
        server = PageServer((HOST, options.port), figures, options.shim)
    except OSError as error:
        print(f"port {options.port} on {HOST}, for the page: {error.strerror}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not from the handler itself: shutdown waits for the loop that the handler interrupts.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"the page: http://{HOST}:{server.server_address[1]}/", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
