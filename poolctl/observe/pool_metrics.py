"""Fetches what an application says of its own pool, from a URL or a file.

One request a look, with a limit to its time and its size. What stands in a URL to get in (a user and password, a
query) goes to that host and nowhere else: not into the source's name, not along a redirect, not into an error.
"""

import base64
import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from poolctl.observe.pool_figures import read_pools
from poolctl.observe.snapshot import PoolFigures, Source

FETCH_WITHIN = 1.2
"""Seconds: a round of all sources waits a little longer."""
LARGEST = 16 << 20
"""Bytes: some 150,000 lines; a service writes a few thousand."""
_CHUNK = 1 << 16


class _CannotFetch(Exception):
    """Why there is nothing to read, in words that hold no secret."""


class PoolStats:
    """One place that tells of pools, as URL or file; ``APPLICATION=`` before it says whose they are.

    ``look`` takes at most ``patience`` seconds and never raises; ``source`` says how it went.
    """

    def __init__(self, place: str, *, patience: float = FETCH_WITHIN) -> None:
        self._patience = patience
        self._application, place = _named(place)
        self._is_url = re.match(r"https?://", place, re.IGNORECASE) is not None
        self._place = place
        self.source = Source("pool-stats", _without_secrets(place) if self._is_url else place)

    def look(self) -> tuple[PoolFigures, ...] | None:
        """The pools now, those that could be read; None when the place could not be read at all."""
        try:
            text, is_whole = _within(self._patience, self._fetch if self._is_url else self._read)
        except _CannotFetch as error:
            self.source = replace(self.source, ok=False, reason=str(error))
            return None
        if not is_whole:
            text = text[: text.rfind("\n") + 1]
        read = read_pools(text, self.source.target)
        cut = f"longer than {LARGEST >> 20} MiB: only the beginning was read" if not is_whole else ""
        reason = "; ".join(part for part in (cut, read.complaint) if part)
        self.source = replace(self.source, ok=not reason, reason=reason)
        if self._application is None:
            return read.pools
        return tuple(replace(pool, application=self._application) for pool in read.pools)

    def close(self) -> None:
        """Nothing is kept open between looks."""

    def _read(self) -> tuple[str, bool]:
        path = Path(self._place)
        try:
            if path.exists() and not path.is_file():
                raise _CannotFetch("it is no file")
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            raise _CannotFetch(getattr(error, "strerror", None) or "it cannot be read") from None
        return content[:LARGEST].decode("utf-8-sig", errors="replace"), len(content) <= LARGEST

    def _fetch(self) -> tuple[str, bool]:
        deadline = time.monotonic() + self._patience
        content = bytearray()
        try:
            with _OPENER.open(_request(self._place), timeout=self._patience) as response:
                while len(content) <= LARGEST and time.monotonic() < deadline:
                    chunk = response.read1(_CHUNK)
                    if not chunk:
                        return bytes(content).decode("utf-8-sig", errors="replace"), True
                    content += chunk
        except urllib.error.HTTPError as error:
            error.close()
            raise _CannotFetch(f"it answered HTTP {error.code} {http.client.responses.get(error.code, '')}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _CannotFetch(_words(error)) from None
        if len(content) > LARGEST:
            return bytes(content[:LARGEST]).decode("utf-8-sig", errors="replace"), False
        raise _CannotFetch(f"not read to its end within {self._patience:g} s")


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers for files and FTP, where a redirect could lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=host, fragment="")),
        headers={"User-Agent": "poolctl", "Accept": "text/plain;version=0.0.4, */*;q=0.1"},
    )
    if parts.username is not None:
        pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
        # "Unredirected" headers are not repeated at the place that a redirect names.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return request


def _named(place: str) -> tuple[str | None, str]:
    """The application's name, None where ``place`` has none before it, and the URL or file."""
    name, equals, rest = place.partition("=")
    if not equals or not name or not rest or re.search(r"[/:?]", name) or Path(place).exists():
        return None, place
    return name, rest


def _without_secrets(url: str) -> str:
    """The URL as far as it may be shown: its query and what stands before the host can hold a token."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _words(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError):
        return reason.strerror or type(reason).__name__
    # The text of the others can repeat the URL.
    return f"no HTTP answer that could be read ({type(reason).__name__})"


def _within(seconds: float, fetch: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
    """What ``fetch`` returns; raises _CannotFetch when it takes longer. A name server or a network file system can
    hold a thread for minutes, so it is left behind."""
    outcome: list[tuple[str, bool] | _CannotFetch] = []

    def run() -> None:
        try:
            outcome.append(fetch())
        except _CannotFetch as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _CannotFetch(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], _CannotFetch):
        raise outcome[0]
    return outcome[0]
