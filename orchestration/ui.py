"""What `make ui` starts: `dagster dev`, and beside it the pages of reports/ over HTTP, so that links to them open.

A browser opens no file from a page that came over HTTP. Served are pages (`*.html`) alone, to this machine alone.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from contracts import parent
from orchestration.figures import SERVED_AT

HOST = "127.0.0.1"


def main() -> None:
    """Run until `dagster dev` ends; exit with its status."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.ui", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="Dagster's; the pages take the next")
    port = parser.parse_args().port
    server = open_server(Path.cwd() / "reports", port + 1)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://{HOST}:{server.server_address[1]}"
    print(f"Pages on data quality and interest shifts: {address}", flush=True)
    command = [sys.executable, parent.__file__, str(os.getpid()), "dagster", "dev", "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, SERVED_AT: address})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: process.send_signal(number))
    status = process.wait()
    server.shutdown()
    sys.exit(status if status >= 0 else 128 - status)


def open_server(reports: Path, port: int) -> ThreadingHTTPServer:
    """A server of the pages in a folder, on this port or, where it is taken, on any."""
    handler = partial(Pages, reports)
    try:
        return ThreadingHTTPServer((HOST, port if port < 1 << 16 else 0), handler)
    except OSError:
        return ThreadingHTTPServer((HOST, 0), handler)


class Pages(BaseHTTPRequestHandler):
    """GET /<id>/<page>.html; / lists what there is."""

    def __init__(self, reports: Path, *arguments: object) -> None:
        self.reports = reports
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A page, the list of pages, or 404; another name than this machine's is refused (DNS rebinding)."""
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "Pages are for this machine alone")
            return
        pages = {page.relative_to(self.reports).as_posix(): page for page in sorted(self.reports.glob("*/*.html"))}
        asked = unquote(urlsplit(self.path).path).lstrip("/")
        if not asked:
            links = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in pages)
            self._answer(f"<!doctype html><title>leitmotif</title><ul>{links}</ul>".encode())
        elif asked in pages:
            self._answer(pages[asked].read_bytes())
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "There is no such page; / lists those there are")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is Dagster's."""

    def _answer(self, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    main()
