"""Reads the titles that PostgreSQL's processes give themselves in the process list.

A backend's is ``postgres: [cluster_name: ]user database client state[ waiting]`` (init_ps_display and set_ps_display
in ps_status.c). The state is the server's own text, the names before it are anybody's: they may hold spaces, colons and
whole imitations of a title. Pure: which processes are whose is left to ``host``.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from poolctl.observe.snapshot import BackendTitle

PREFIX = "postgres: "
_CLIENT = re.compile(r" (?P<client>\[local\]|(?P<address>[^\s()]+)\((?P<port>\d+)\))(?: (?P<state>.*))?$", re.DOTALL)
_HELPERS = ("checkpointer", "background writer", "walwriter", "autovacuum launcher")
"""Of every server at least one runs, behind the cluster's name."""
_WALSENDER = "walsender "
_LONGEST = 1000
"""Characters: names of 63 bytes each, an address and a command."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of a server's names, which decides where a user's ends and a database's begins."""

    cluster: str = ""
    users: Collection[str] = field(default=frozenset())
    databases: Collection[str] = field(default=frozenset())


def cluster_of(titles: Iterable[str]) -> str:
    """The cluster_name, by the titles of a server's helpers; "" when it has none, or no helper is seen."""
    for title in titles:
        for helper in _HELPERS:
            if title.rstrip().endswith(": " + helper) and title.startswith(PREFIX):
                return title.rstrip()[len(PREFIX) : -len(helper)].removesuffix(": ")
    return ""


def parse_title(
    title: str, pid: int, started_at: float | None = None, names: Names | None = None
) -> BackendTitle | None:
    """The backend that ``title`` tells of; None for every other process, walsenders among them: those take none of
    max_connections."""
    names = names or Names()
    start = PREFIX + (f"{names.cluster}: " if names.cluster else "")
    if not title.startswith(start):
        return None
    title = title[len(start) : len(start) + _LONGEST]
    # The last client in the title is the real one: what stands behind it is the server's.
    at = max(title.rfind(" [local]"), _last_address(title))
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


def _last_address(title: str) -> int:
    last = -1
    for match in re.finditer(r" [^\s()]+\(\d+\)(?= |$)", title):
        last = match.start()
    return last


def split_names(text: str, names: Names) -> tuple[str, str]:
    """User and database of "user database": where both may hold spaces, the split at which both are known, else one
    of them; a user alone when there is no space."""
    spaces = [at for at, letter in enumerate(text) if letter == " "]
    if not spaces:
        return text, ""
    splits = [(text[:at], text[at + 1 :]) for at in reversed(spaces)]
    # The sort is stable: where nothing is known it is the last space, as databases rarely have any.
    return max(splits, key=lambda split: (split[0] in names.users) + (split[1] in names.databases))
