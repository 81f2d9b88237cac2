"""A real Prometheus that scrapes what a test serves."""

import http.server
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from poolctl.engines.sandbox.server import free_port

BINARY = shutil.which("prometheus")

CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: [{targets}]}}]
"""


@contextmanager
def serve(write: Callable[[], str]) -> Iterator[int]:
    """Serve ``write()`` as /metrics, and yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = write().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def run_prometheus(folder: Path, ports: list[int]) -> Iterator[str]:
    """Run a Prometheus that scrapes ``ports`` each second, and yield its URL once it answers."""
    assert BINARY is not None
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    (folder / "prometheus.yml").write_text(CONFIG.format(targets=targets))
    port = free_port()
    command = [
        BINARY,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                if process.poll() is not None:
                    raise AssertionError((folder / "prometheus.log").read_text())
                try:
                    with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                        break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def wait_for(url: str, query: str, value: float) -> None:
    """Wait until a query gives ``value`` in every series, of which there is at least one."""
    for _ in range(300):
        with urllib.request.urlopen(f"{url}/api/v1/query?query={query}", timeout=5) as response:
            result = json.load(response)["data"]["result"]
        if result and all(float(each["value"][1]) == value for each in result):
            return
        time.sleep(0.1)
    raise AssertionError(f"{query} never became {value}: {result}")
