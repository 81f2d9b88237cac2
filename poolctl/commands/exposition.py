"""Metrics of ``inspect --watch`` for a Prometheus: served at an address, or written to a file.

Decides where they are served and how the file is replaced. What the metrics are is the report's decision.
"""

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolctl.errors import BadInput, CannotDo

if TYPE_CHECKING:
    from poolctl.api.progress import WatchView
    from poolctl.api.results import InspectResult

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for a scraper to send its request: one that sends nothing must not hold a thread for ever."""


def parse_address(text: str) -> tuple[str, int]:
    """Read ``PORT``, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``; a port alone is on the loopback address.

    Raises BadInput.
    """
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise BadInput(f"--metrics {text}: give [ADDRESS:]PORT", hint="--metrics 9187, or --metrics 0.0.0.0:9187")
    return address.removeprefix("[").removesuffix("]") or LOOPBACK, int(port)


class Exposition:
    """The newest metrics: served while it is open, and written to ``textfile`` at each update.

    ``warn`` is given a sentence when the file cannot be written, once until it can.
    """

    def __init__(self, address: tuple[str, int] | None, textfile: Path | None, warn: Any) -> None:
        self._textfile, self._warn = textfile, warn
        self._is_broken = False
        self._text = b""
        self._server = _open_server(address, self) if address is not None else None
        self.update(None)

    @property
    def text(self) -> bytes:
        return self._text

    @property
    def port(self) -> int | None:
        """The port that is served; None without one."""
        return self._server.server_address[1] if self._server is not None else None

    def update(self, result: "InspectResult | None") -> None:
        """Take the metrics of ``result``; None: before the first one."""
        from poolctl import __version__
        from poolctl.report.metrics import write_metrics

        self._text = write_metrics(result, __version__).encode("utf-8")
        if self._textfile is None or result is None:
            return
        try:
            _replace(self._textfile, self._text)
        except OSError as error:
            if not self._is_broken:
                self._warn(f"cannot write the metrics {self._textfile}: {error.strerror or error}")
            self._is_broken = True
        else:
            self._is_broken = False

    @contextmanager
    def follow(self, view: "WatchView") -> Iterator["WatchView"]:
        """Yield a view that updates the metrics before ``view`` shows a result."""
        yield _Followed(self, view)

    def close(self) -> None:
        """Serve no longer. The file stays: its last sample says when it was taken."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Followed:
    def __init__(self, exposition: Exposition, view: "WatchView") -> None:
        self._exposition, self._view = exposition, view

    def show(self, result: "InspectResult") -> None:
        self._exposition.update(result)
        self._view.show(result)

    def wants_to_end(self) -> bool:
        return self._view.wants_to_end()


def _replace(path: Path, text: bytes) -> None:
    """Write ``path`` at once, so that a collector reads the old text or the new one. Raises OSError."""
    # The collector of node_exporter reads *.prom only.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(text)
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _open_server(address: tuple[str, int], exposition: Exposition) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version, sys_version = "poolctl", ""

        def do_GET(self) -> None:
            is_known = self.path.partition("?")[0] in ("/metrics", "/")
            body = exposition.text if is_known else b"metrics are at /metrics\n"
            self.send_response(200 if is_known else 404)
            kind = "text/plain; version=0.0.4; charset=utf-8" if is_known else "text/plain"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing: a scrape each few seconds is no news."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Write nothing: a scraper that leaves is no error of poolctl's."""

        def server_bind(self) -> None:
            # Without the look-up of the host's name that HTTPServer makes, which may take seconds.
            socket.socket.bind(self.socket, self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    try:
        server = Server(address, Handler)
    except OSError as error:
        raise CannotDo(
            f"cannot serve metrics at {address[0]}:{address[1]}: {error.strerror or error}",
            hint="another port: --metrics [ADDRESS:]PORT",
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
