"""PostgreSQL's protocol before login, spoken by hand: for refusals that libpq hides, and to ask without a password.

A server that is full says so before it asks for a password; limits of a role or a database come after it. The answer
carries SQLSTATE and routine, whatever its language. Messages: PostgreSQL's documentation, "Message Formats".
"""

import contextlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Self

from poolctl.observe.refusals import classify
from poolctl.observe.snapshot import Refusal

_PROTOCOL_3, _SSL_REQUEST = 196608, 80877103
_LONGEST = 30_000
"""Bytes of a message before login; libpq's own limit."""

_PASSED_OVER = b"SKNv"
"""Types of messages that are skipped: parameters, the cancel key, notices, the server's protocol version."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect (an address, or a folder of Unix sockets, beginning with a slash), and as which user."""

    address: str
    port: int
    user: str
    database: str
    application: str = ""
    is_encrypted: bool = False
    """Ask for TLS first. The certificate is not checked, as nothing secret is sent."""

    @property
    def target(self) -> str:
        return f"{self.address}:{self.port}/{self.database}"


def probe_login(place: Endpoint, *, within: float) -> Refusal | None:
    """Begin a login, and return the refusal; None when the server would let the client in, or asks for a password."""
    deadline = time.monotonic() + within
    try:
        with _connect(place, deadline) as line:
            return _send_startup(line, place) or line.read_answer(place.target)
    except TimeoutError:
        return classify(f"no answer within {within:g} s", None, None, place.target)
    except OSError as error:
        return classify(error.strerror or str(error), None, None, place.target)


class _MessageSocket:
    """A socket with a deadline, read message by message."""

    def __init__(self, end: socket.socket, deadline: float) -> None:
        self.end = end
        self._deadline = deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close()

    def send(self, message: bytes) -> None:
        # A timeout of the socket holds for each call alone, so the rest of the time is set before every call.
        self.end.settimeout(self.remaining())
        self.end.sendall(message)

    def remaining(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def read(self, count: int) -> bytes:
        """Read exactly ``count`` bytes; fewer only where the other side has closed."""
        found = b""
        while len(found) < count:
            self.end.settimeout(self.remaining())
            some = self.end.recv(count - len(found))
            if not some:
                break
            found += some
        return found

    def read_answer(self, target: str) -> Refusal | None:
        while True:
            kind = self.read(1)
            if kind == b"E":
                return self.read_error(target)
            if kind == b"":
                return classify("the connection was closed without an answer", None, None, target)
            (length,) = struct.unpack("!i", self.read(4).ljust(4, b"\0"))
            if not 4 <= length <= _LONGEST or kind not in b"RZ" + _PASSED_OVER:
                return classify("what answers there is not a PostgreSQL", None, None, target)
            body = self.read(length - 4)
            # ReadyForQuery, or an authentication request other than "OK": nothing is refused at this point.
            if kind == b"Z" or (kind == b"R" and body[:4] != bytes(4)):
                with contextlib.suppress(OSError):
                    # Terminate: without it the server logs an unexpected end of file.
                    self.send(b"X\0\0\0\4")
                return None

    def read_error(self, target: str) -> Refusal:
        """Read the rest of an error message, whose first byte was read already."""
        start = self.read(4)
        (length,) = struct.unpack("!i", start.ljust(4, b"\0"))
        if not 4 <= length <= _LONGEST:
            # When the server cannot fork, the text comes as in protocol 2: no length, and a zero byte at its end.
            text = (start + self.read(_LONGEST)).partition(b"\0")[0]
            return Refusal("unknown", text.decode(errors="replace").strip(), target=target)
        fields = {part[:1]: part[1:].decode(errors="replace") for part in self.read(length - 4).split(b"\0") if part}
        return classify(fields.get(b"M", ""), fields.get(b"C"), fields.get(b"R"), target)


def _connect(place: Endpoint, deadline: float) -> _MessageSocket:
    if place.address.startswith(("/", "@")):
        end = socket.socket(socket.AF_UNIX)
        path = f"{place.address}/.s.PGSQL.{place.port}"
        line = _MessageSocket(end, deadline)
        try:
            end.settimeout(line.remaining())
            end.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            end.close()
            raise
        return line
    within = max(deadline - time.monotonic(), 0.001)
    return _MessageSocket(socket.create_connection((place.address, place.port), within), deadline)


def _send_startup(line: _MessageSocket, place: Endpoint) -> Refusal | None:
    """Send the startup packet, encrypted if asked for. A refusal may come before it."""
    if place.is_encrypted:
        line.send(struct.pack("!ii", 8, _SSL_REQUEST))
        # One byte without any frame: S or N, or E of an error message, which is not encrypted.
        reply = line.read(1)
        if reply == b"E":
            return line.read_error(place.target)
        if reply != b"S":
            return classify("the server does not support SSL", None, None, place.target)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        line.end.settimeout(line.remaining())
        line.end = context.wrap_socket(line.end)
    about = {"user": place.user, "database": place.database, "application_name": place.application}
    body = b"".join(f"{key}\0{value}\0".encode() for key, value in about.items() if value) + b"\0"
    line.send(struct.pack("!ii", len(body) + 8, _PROTOCOL_3) + body)
    return None
