"""The processes of a PostgreSQL: which ones of this machine they are, what their titles say, what they use.

Other servers may run beside the one in question. It is found by the ids and ports of the backends that it reported,
else by the process that listens where poolctl connects.

A backend's title is ``postgres: [cluster_name: ]user database client state[ waiting]`` (init_ps_display and
set_ps_display in ps_status.c). The state is the server's own text. The names before it are chosen by users: they may
hold spaces, colons and whole imitations of a title, so a title is read from its end.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from poolctl.observe.snapshot import Backend, BackendTitle
from poolctl.observe.sockets import has_hidden_sockets, list_sockets

PREFIX = "postgres: "
_CLIENT = re.compile(r" (?P<client>\[local\]|(?P<address>[^\s()]+)\((?P<port>\d+)\))(?: (?P<state>.*))?$", re.DOTALL)
_HELPERS = ("checkpointer", "background writer", "walwriter", "autovacuum launcher")
"""Titles behind the cluster's name; at least one of these processes runs in every server."""
_WALSENDER = "walsender "
_LONGEST = 1000
"""Characters of a title that are read: names of 63 bytes each, an address and a command."""

_COMPARED_BACKENDS = 30
"""Backends that are compared with the processes of the same id; fewer would be enough."""
_SAME_START = 2.0
"""Seconds between a process's start and the backend_start that it reports: authentication lies in between."""


@dataclass(frozen=True, slots=True)
class Names:
    """The known names of a server, which decide where a user's name ends and a database's begins."""

    cluster: str = ""
    users: Collection[str] = field(default=frozenset())
    databases: Collection[str] = field(default=frozenset())


def find_cluster_name(titles: Iterable[str]) -> str:
    """Find the cluster_name in the titles of a server's helpers; "" without one, or without a helper."""
    for title in titles:
        for helper in _HELPERS:
            if title.rstrip().endswith(": " + helper) and title.startswith(PREFIX):
                return title.rstrip()[len(PREFIX) : -len(helper)].removesuffix(": ")
    return ""


def parse_title(
    title: str, pid: int, started_at: float | None = None, names: Names | None = None
) -> BackendTitle | None:
    """Parse the title of a client's backend; None for any other process.

    Walsenders are among the others: they take none of max_connections.
    """
    names = names or Names()
    start = PREFIX + (f"{names.cluster}: " if names.cluster else "")
    if not title.startswith(start):
        return None
    title = title[len(start) : len(start) + _LONGEST]
    # The last client in the title is the real one: only the server's own text stands behind it.
    # A user may be named "a [local] idle": only the last match can be the server's own.
    at = max(title.rfind(" [local]"), _find_last_address(title))
    match = _CLIENT.match(title, at) if at > 0 else None
    if match is None or title.startswith(_WALSENDER):
        return None
    user, database = split_names(title[:at], names)
    return BackendTitle(
        pid=pid,
        user=user,
        database=database,
        client="local" if match["address"] is None else match["address"],
        client_port=int(match["port"]) if match["port"] else None,
        state=(match["state"] or "").strip(),
        started_at=started_at,
    )


def _find_last_address(title: str) -> int:
    last = -1
    for match in re.finditer(r" [^\s()]+\(\d+\)(?= |$)", title):
        last = match.start()
    return last


def split_names(text: str, names: Names) -> tuple[str, str]:
    """Split "user database", where both may hold spaces, at the space where both are known, else one of them.

    Without any space it is a user alone.
    """
    spaces = [at for at, letter in enumerate(text) if letter == " "]
    if not spaces:
        return text, ""
    splits = [(text[:at], text[at + 1 :]) for at in reversed(spaces)]
    # max() takes the first of equals: where no name is known the last space, as databases rarely have one.
    return max(splits, key=lambda split: (split[0] in names.users) + (split[1] in names.databases))


def find_parent(backends: Iterable[Backend]) -> psutil.Process | None:
    """Find the process whose children these backends are; None when most of them are not on this machine."""
    parents: Counter[int] = Counter()
    strangers = 0
    # Of a hidden helper nothing is known that its title has, too.
    telling = [
        one
        for one in backends
        if one.client_port is not None or one.started_at is not None or (one.user and one.database)
    ]
    for backend in sorted(telling, key=lambda one: not one.is_client)[:_COMPARED_BACKENDS]:
        try:
            process = psutil.Process(backend.pid)
            if _is_backend(process, backend):
                parents[process.ppid()] += 1
            else:
                strangers += 1
        except psutil.Error:
            strangers += 1
    for pid, votes in parents.most_common(1):
        with suppress(psutil.Error):
            # In a container the server reports pids of its own namespace, some of which exist here by chance.
            return psutil.Process(pid) if votes > strangers else None
    return None


def _is_backend(process: psutil.Process, backend: Backend) -> bool:
    """Return True if the process of that id is this backend: for a server elsewhere it is another process."""
    title = read_title(process)
    if title.startswith(PREFIX) and backend.client_port is not None:
        return f"({backend.client_port})" in title
    if backend.started_at is not None:
        return abs(process.create_time() - backend.started_at) < _SAME_START and _is_postgres(process.name())
    return title.startswith(PREFIX) and f" {backend.user} " in f" {title} "


def find_listener(folder: str | None, port: int | None, inodes: Collection[int]) -> psutil.Process | None:
    """Find the postmaster that listens on ``port``, of which nothing else is known.

    ``folder`` is that of its Unix socket ("" for the usual ones), None where it is reached over TCP; ``inodes`` are of
    the sockets that listen on the port (off Linux: the processes). None where there is none, or
    where it cannot be decided.
    """
    if port is None:
        return None
    candidates = [process for process in psutil.process_iter() if _is_postmaster(process)]
    if folder is not None:
        pid = _read_lock_file(folder, port)
        if pid is not None:
            return next((process for process in candidates if process.pid == pid), None)
    unreadable: list[psutil.Process] = []
    for process in candidates:
        own = set(list_sockets(process.pid)) if psutil.LINUX else {process.pid}
        # A second server can have the same port on another address, so the socket decides, not the port.
        if own & set(inodes):
            return process
        # A process without any socket is only starting, and is not the one that listens.
        if not own and has_hidden_sockets(process.pid):
            unreadable.append(process)
    named = [process for process in unreadable if _has_port_argument(process, port)]
    fitting = named or (unreadable if inodes else [])
    return fitting[0] if len(fitting) == 1 else None


def _is_postmaster(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        if _is_postgres(process.name()):
            parent = process.parent()
            return parent is None or not _is_postgres(parent.name())
    return False


def _is_postgres(name: str) -> bool:
    return name.startswith(("postgres", "postmaster"))


def _has_port_argument(process: psutil.Process, port: int) -> bool:
    with suppress(psutil.Error):
        return re.search(rf"(?:-p ?|port[= ]){port}(?!\d)", " ".join(process.cmdline())) is not None
    return False


def _read_lock_file(folder: str, port: int) -> int | None:
    """Read the postmaster's pid, which PostgreSQL writes beside its Unix socket."""
    for place in [folder] if folder else ["/var/run/postgresql", "/tmp"]:
        with suppress(OSError, ValueError, IndexError):
            return int(Path(place, f".s.PGSQL.{port}.lock").read_text().split()[0])
    return None


class Member(NamedTuple):
    """A child of a postmaster: its title, its start in seconds since the epoch, and the processor seconds it used."""

    pid: int
    title: str
    started_at: float
    used: float


def list_members(postmaster: psutil.Process | None) -> list[Member]:
    """List the children of a postmaster; none without one."""
    if postmaster is None:
        return []
    if psutil.LINUX:
        return list(_list_linux_members(postmaster.pid))
    found: list[Member] = []
    with suppress(psutil.Error):
        for process in postmaster.children():
            with suppress(psutil.Error), process.oneshot():
                times = process.cpu_times()
                member = Member(process.pid, read_title(process), process.create_time(), times.user + times.system)
                found.append(member)
    return found


def _list_linux_members(parent: int) -> Iterator[Member]:
    """List what psutil would find, but read each file once: four times as fast for 500 backends."""
    ticks, booted_at = os.sysconf("SC_CLK_TCK"), psutil.boot_time()
    for name in os.listdir("/proc"):  # noqa: PTH208 - a thousand of them in each sample
        if not name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):
            # The name of the program, between brackets, may itself hold brackets and spaces.
            fields = _read_file(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if int(fields[1]) == parent:
                title = _read_file(f"/proc/{name}/cmdline").replace(b"\0", b" ").rstrip().decode(errors="replace")
                used = (int(fields[11]) + int(fields[12])) / ticks
                yield Member(int(name), title, booted_at + int(fields[19]) / ticks, used)


def _read_file(path: str) -> bytes:
    # Path.read_bytes() takes three times as long, and there are two files a process.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def read_title(process: psutil.Process) -> str:
    """Read the command line as one text; "" where it is hidden from this user."""
    with suppress(psutil.Error):
        text = " ".join(process.cmdline()).rstrip()
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return ""


class ProcessorTimes(NamedTuple):
    """Processor seconds since the beginning, at ``at`` on the monotonic clock; ``server`` None if it is elsewhere."""

    at: float
    busy: float
    total: float
    server: float | None

    @classmethod
    def read(cls, postmaster: psutil.Process | None, family: Iterable[Member]) -> "ProcessorTimes":
        all_cores = psutil.cpu_times()
        # Linux counts the time of guests in that of users already.
        total = sum(all_cores) - getattr(all_cores, "guest", 0.0) - getattr(all_cores, "guest_nice", 0.0)
        idle = all_cores.idle + getattr(all_cores, "iowait", 0.0)
        server = None
        if postmaster is not None:
            server = sum(member.used for member in family)
            with suppress(psutil.Error):
                times = postmaster.cpu_times()
                # When a backend ends, the kernel adds its time to its parent's children.
                server += times.user + times.system
                server += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
        return cls(time.monotonic(), total - idle, total, server)

    def compare(self, before: "ProcessorTimes | None") -> tuple[float | None, float | None]:
        """Compute the share of all cores that was busy, and the cores that the server kept busy.

        None for both without a ``before``.
        """
        if before is None or self.total <= before.total or self.at <= before.at:
            return None, None
        share = min(1.0, max(0.0, (self.busy - before.busy) / (self.total - before.total)))
        if self.server is None or before.server is None:
            return share, None
        return share, max(0.0, (self.server - before.server) / (self.at - before.at))


def list_ports(postmaster: psutil.Process | None, listening: Mapping[int, int]) -> set[int]:
    """List the TCP ports that a server listens on, of ``listening``: ports by inode (off Linux: by process).

    Empty where the server's open files are hidden from this user.
    """
    if postmaster is None:
        return set()
    own = list_sockets(postmaster.pid) if psutil.LINUX else [postmaster.pid]
    return {listening[inode] for inode in own if inode in listening}


def has_same_network(postmaster: psutil.Process) -> bool:
    """Return True if the server is in poolctl's network namespace, or where that cannot be read."""
    if not psutil.LINUX:
        return True
    try:
        # Each namespace is an inode; the link names it, as in net:[4026531840].
        own, its = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", postmaster.pid))
    except OSError:
        return True
    return own == its


def parse_titles(family: Sequence[Member], names: Names) -> tuple[BackendTitle, ...]:
    """Parse the backends among the children of a postmaster. ``names``: users and databases that are known."""
    names = Names(find_cluster_name(member.title for member in family), names.users, names.databases)
    found = (parse_title(member.title, member.pid, member.started_at, names) for member in family)
    return tuple(title for title in found if title is not None)
