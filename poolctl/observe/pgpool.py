"""Pgpool-II's view of itself, from SHOW pool_...

A Pgpool-II with every child busy refuses no client: the kernel accepts the connection, and no answer comes, not to SHOW
either. So every sample has a deadline, and the clients that wait are counted in the kernel's listen queue. One
connection is kept between samples: each new one takes another child, and leaves another connection to PostgreSQL in its
cache.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from poolctl.observe.admin_console import (
    ANSWER_WITHIN,
    Console,
    Row,
    explain_failure,
    learn_offset,
    parse_instant,
    read_local_offsets,
)
from poolctl.observe.refusals import Refused, ServerLost, StatementFailed
from poolctl.observe.snapshot import PgpoolChild, PgpoolConnection, PgpoolSample, Source
from poolctl.observe.sockets import count_waiting_by_port, is_loopback, read_tcp_sockets
from poolctl.safe_text import hide_literals

_NOTICED = 0.5
"""Seconds to wait when the sample before hung: it only has to show that it serves again."""
_LIMITS = ("num_init_children", "max_pool", "reserved_connections")


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What only a restart changes."""

    version: str = ""
    num_init_children: int | None = None
    max_pool: int | None = None
    reserved_connections: int | None = None


class Pgpool:
    """One Pgpool-II. ``sample`` takes at most ``patience`` seconds and never raises; ``source`` says how it went.

    Raises BadInput for a connection string that cannot be read.
    """

    def __init__(self, conninfo: str, *, patience: float = ANSWER_WITHIN) -> None:
        self._console = Console(conninfo, {"port": "9999"})
        self._patience = patience
        self._hung = False
        self._fixed = _Fixed()
        self.source = Source("pgpool", self._console.target)

    @property
    def port(self) -> int | None:
        """The port that Pgpool-II listens on, for the host's view of its listen queue."""
        return self._console.port

    @property
    def backend_pid(self) -> int | None:
        """The pid of the PostgreSQL backend that Pgpool-II opened for poolctl, which counts as a client there; None
        while there is none."""
        return self._console.login_pid

    def sample(self) -> PgpoolSample | None:
        """Sample it; None when it is not there or refuses.

        When it accepts the connection and does not answer, the sample has ``hangs`` and what was known before.
        """
        patience = min(self._patience, _NOTICED) if self._hung else self._patience
        deadline = time.monotonic() + patience
        self._hung = False
        try:
            processes = self._console.query("SHOW pool_processes", deadline)
            pools = self._console.query("SHOW pool_pools", deadline, may_connect=False)
            if self._fixed.num_init_children is None:
                self._fixed = self._read_fixed(deadline)
        except StatementFailed as error:
            self.source = replace(self.source, ok=False, reason=f"it is not a Pgpool-II: {error.message}")
            self._console.close()
            return None
        except (Refused, ServerLost) as error:
            self._hung = error.hung
            self.source = replace(self.source, ok=False, reason=_explain_silence(error))
            return self._sample((), (), hangs=True) if error.hung else None
        self.source = replace(self.source, ok=True, reason="")
        backend_pid = self._console.login_pid
        offsets = learn_offsets(pools, backend_pid, self._console.connected_at)
        children = parse_children(processes, offsets, own=find_own_child(pools, backend_pid))
        return self._sample(children, parse_connections(pools, own_pid=backend_pid))

    def close(self) -> None:
        self._console.close()

    def _read_fixed(self, deadline: float) -> _Fixed:
        status = parse_limits(self._console.query("SHOW pool_status", deadline, may_connect=False))
        version = self._console.query("SHOW pool_version", deadline, may_connect=False)
        return _Fixed(parse_version(version), *(status.get(name) for name in _LIMITS))

    def _sample(
        self, children: tuple[PgpoolChild, ...], connections: tuple[PgpoolConnection, ...], *, hangs: bool = False
    ) -> PgpoolSample:
        return PgpoolSample(
            target=self._console.target,
            version=self._fixed.version,
            children=children,
            connections=connections,
            num_init_children=self._fixed.num_init_children,
            max_pool=self._fixed.max_pool,
            reserved_connections=self._fixed.reserved_connections,
            waiting=count_waiting(self._console.host, self._console.port),
            hangs=hangs,
            own_backend=self._console.login_pid,
        )


def count_waiting(host: str, port: int | None) -> int | None:
    """Count the clients in the listen queue of a Pgpool-II on this machine; None where it is elsewhere or hidden."""
    sockets = read_tcp_sockets()
    if port is None or not (is_loopback(host) or host in {one.local.address for one in sockets}):
        return None
    return count_waiting_by_port(sockets, {port}).get(port)


def _explain_silence(error: Refused | ServerLost) -> str:
    words = explain_failure(error)
    if error.hung:
        return f"{words}: every child is busy, or it is stuck"
    # libpq 17 and newer ask for encryption first, and do not repeat an answer to that which is an error.
    if "SSL exchange" in words:
        return f"{words}: it refused before encryption, as it does when full; sslmode=disable shows its words"
    return words


def find_own_child(pools: Sequence[Row], backend_pid: int | None) -> int | None:
    """Find the pid of the child that serves poolctl, by the backend that poolctl was given."""
    own = _find_own(pools, backend_pid)
    return own.count("pool_pid") or None if own is not None else None


def learn_offsets(pools: Sequence[Row], backend_pid: int | None, connected_at: float | None) -> dict[str, float]:
    """Learn how far Pgpool-II's clock, which it writes without a zone, is east of UTC.

    It shows when poolctl's own connection was made; without that, this machine's zone is taken.
    """
    own = _find_own(pools, backend_pid)
    local = read_local_offsets()
    here = local[time.tzname[time.localtime().tm_isdst > 0]]
    if own is None:
        return local | {"": here}
    # Before 4.3 only the backend's start is shown, which is poolctl's own if no other client used the backend before.
    written = own.text("client_connection_time") or (own.text("create_time") if own.count("pool_counter") == 1 else "")
    return local | {"": here} | learn_offset(written, connected_at)


def _find_own(pools: Sequence[Row], backend_pid: int | None) -> Row | None:
    return next((row for row in pools if backend_pid and row.count("pool_backendpid") == backend_pid), None)


def parse_children(
    rows: Sequence[Row], offsets: Mapping[str, float], *, own: int | None = None
) -> tuple[PgpoolChild, ...]:
    """Parse SHOW pool_processes: a row each child. ``own``: the child that serves poolctl."""
    return tuple(
        PgpoolChild(
            pid=row.count("pool_pid"),
            database=row.text("database"),
            user=row.text("username"),
            status=row.text("status") or None,
            started_at=parse_instant(row.text("start_time"), offsets),
            connected_at=parse_instant(row.text("backend_connection_time") or row.text("create_time"), offsets),
            is_own=own is not None and row.count("pool_pid") == own,
        )
        for row in rows
    )


def parse_connections(rows: Sequence[Row], *, own_pid: int | None = None) -> tuple[PgpoolConnection, ...]:
    """Parse SHOW pool_pools: the slots with a backend in them. ``own_pid``: the backend that serves poolctl."""
    return tuple(
        PgpoolConnection(
            child_pid=row.count("pool_pid"),
            backend_pid=row.count("pool_backendpid"),
            database=row.text("database"),
            user=row.text("username"),
            is_connected=row.count("pool_connected") > 0,
            client=row.text("client_host") or None,
            client_port=row.count("client_port") or None,
            statement=hide_literals(row.text("statement")) or None,
        )
        for row in rows
        if row.count("pool_backendpid") not in (0, own_pid)
    )


def parse_limits(rows: Sequence[Row]) -> dict[str, int]:
    """Parse the sizes in SHOW pool_status; nothing else of it is kept, since it lists passwords, too."""
    return {row.text("item"): row.count("value") for row in rows if row.text("item") in _LIMITS}


def parse_version(rows: Sequence[Row]) -> str:
    """Return "4.3.5" of "4.3.5 (tamahomeboshi)"; "" where there is none."""
    for row in rows:
        match = re.match(r"\d+(?:\.\d+)+\S*", row.text("pool_version"))
        if match is not None:
            return match[0]
    return ""
