"""A real headless Chromium that opens a page, and says what it complained about and what it asked the network for.

Speaks the DevTools protocol over a pair of pipes: JSON messages, each ended by a zero byte.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0
"""Seconds: a machine under load starts a browser slowly."""


class Browser:
    """One page.

    ``complaints``: errors in the console, and exceptions. ``requests``: every address but data and the page's own.
    """

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = to, of
        self._buffer = b""
        self._last = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1000, scheme: str = "light") -> None:
        """Load the page at ``width`` pixels, in the reader's color ``scheme``."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._wait(lambda: any(event["method"] == "Page.loadEventFired" for event in self._events))
        for event in self._events:
            self._judge(event, path.as_uri())

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._wait(lambda: bool(answers), answers)
        assert "error" not in answers[0], answers[0]
        return dict(answers[0]["result"])

    def _judge(self, event: dict[str, Any], own: str) -> None:
        method, about = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if url != own and not url.startswith("data:"):
                self.requests.append(url)
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(about))

    def _wait(self, is_done: Any, answers: list[dict[str, Any]] | None = None) -> None:
        until = time.monotonic() + PATIENCE
        while not is_done():
            rest = until - time.monotonic()
            assert rest > 0, "the browser does not answer"
            if not select.select([self._of], [], [], rest)[0]:
                continue
            chunk = os.read(self._of, 1 << 20)
            assert chunk, "the browser has ended"
            *whole, self._buffer = (self._buffer + chunk).split(b"\0")
            for raw in whole:
                message = json.loads(raw)
                if message.get("id") == self._last and answers is not None:
                    answers.append(message)
                elif "method" in message:
                    self._events.append(message)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Provide a browser whose profile is in ``folder``. Skips where none is installed, which CI forbids."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium (apt package chromium)")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def place_pipes() -> None:
        # The protocol's pipes are descriptors 3 and 4. Copies first: a pipe may have one of these numbers already.
        reads, writes = (fcntl.fcntl(pipe, fcntl.F_DUPFD, 10) for pipe in (theirs_in, theirs_out))
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    process = subprocess.Popen(
        [
            program,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=place_pipes,
        close_fds=False,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(ours_out)
        os.close(ours_in)
