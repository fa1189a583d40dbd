"""The page of a study on this machine only, with maps read from the store when they are looked at.

The address is 127.0.0.1, and requests that name another host are refused: a page elsewhere that
points its own name here (DNS rebinding) sees nothing.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

from salience._errors import expected
from salience._study.study import Study
from salience.report import _pixels as pixels
from salience.report._extras import Extras
from salience.report._page import render

HOST = "127.0.0.1"
_PATIENCE = 5  # seconds that a connection may say nothing
Answer = Callable[[str], tuple[bytes, str] | None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # Ctrl-C waits for nobody
    request_queue_size = 64  # a browser asks for many maps at once

    def handle_error(self, request: Any, client_address: object) -> None:
        """A client that went away is no news; anything else is a bug, and printed."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def server(study: Study, extras: Extras, title: str | None = None, port: int = 0) -> HTTPServer:
    """A server of the page on 127.0.0.1, bound and not yet serving; port 0 is any free one.

    Errors: SalienceError for a port that is taken, or none.

    Paths: / (the page), /inputs/SAMPLE, /maps/SAMPLE/STAGE (bytes, see `pixels`).
    """
    plan = pixels.whole(study) if study.has_maps else None
    page = render(study, extras, title, plan, embedded=False).encode()
    try:
        return _Server((HOST, port), _handler(_answers(study, plan, page)))
    except (OSError, OverflowError) as error:
        got, cure = f"{port} ({error})", "Port 0 is any free one."
        raise expected("a free port of this machine, from 0 to 65535", got, cure) from None


def _answers(study: Study, plan: pixels.Plan | None, page: bytes) -> Answer:
    """What is under a path: its bytes and their type."""
    reading = threading.Lock()  # netCDF's library is not made for threads

    def answer(path: str) -> tuple[bytes, str] | None:
        if path == "/":
            return page, "text/html; charset=utf-8"
        found = re.fullmatch(r"/(?:inputs/(\d{1,9})|maps/(\d{1,9})/(\d{1,9}))", path)
        if plan is None or found is None:
            return None
        sample = int(found[1] or found[2])
        stage = int(found[3] or 0)
        if sample not in plan.samples or stage not in plan.stages:
            return None
        with reading:
            if found[1]:
                block = pixels.input_block(study, sample, plan.inputs)
            else:
                block = pixels.map_block(study, sample, stage, plan.size)
        return block, "application/octet-stream"

    return answer


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE

        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rsplit(":", 1)[0]
            found = answer(self.path) if name in (HOST, "localhost") else None
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            body, kind = found
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the terminal is the user's."""

    return Handler
