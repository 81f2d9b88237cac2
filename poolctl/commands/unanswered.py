"""What to say when nobody answered: one clear error a source, and the way out for the reason it has.

Decides what counts as an answer. A server that refuses for want of slots has answered; one that refuses a password
has not.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from poolctl.errors import CannotConnect, CannotDo

if TYPE_CHECKING:
    from poolctl.observe.snapshot import Observation, Refusal, Snapshot

FULL = (
    "server-slots",
    "reserved-slots",
    "superuser-slots",
    "role-limit",
    "database-limit",
    "walsender-slots",
    "pooler-clients",
    "pooler-queue",
    "pooler-login",
    "pooler",
)
"""Refusals that say something about connections."""

_NO_DATABASE = "3D000"
_NAME_ONE = 'name a server: poolctl inspect "host=... dbname=..." or -h HOST -d DATABASE, or set PGHOST'


def has_answered(observation: "Observation") -> bool:
    """Whether anybody said something about connections."""
    return any(_says_something(snapshot) for snapshot in observation.snapshots)


def check_answered(observation: "Observation", *, was_named: bool) -> None:
    """Raise CannotDo when there is nothing to tell, with every source that failed and why."""
    if has_answered(observation):
        return
    failed = [source for source in observation.sources if not source.ok and source.kind != "host"]
    if not failed:
        raise CannotDo("nothing was seen", hint="the recording holds no snapshot, or it was ended before the first one")
    from poolctl.report.findings import SOURCES

    lines = [f"cannot look at {SOURCES[source.kind]} {source.target}: {source.reason}" for source in failed]
    raise CannotConnect("\n".join(lines), hint=next(_ways_out(observation, was_named), ""))


def _says_something(snapshot: "Snapshot") -> bool:
    if snapshot.server is not None or snapshot.bouncers or snapshot.pgpools or snapshot.pools:
        return True
    if snapshot.refusal is None:
        return False
    return snapshot.refusal.by in FULL or _hangs_here(snapshot)


def _hangs_here(snapshot: "Snapshot") -> bool:
    """Whether what listens there is no server of this machine, and connections wait for it to accept them."""
    host, refusal = snapshot.host, snapshot.refusal
    if host is None or host.has_server or refusal is None or refusal.by != "unreachable":
        return False
    place = refusal.target.partition("/")[0]
    return any(waiting and place.endswith(f":{port}") for port, waiting in host.listen_queues.items())


def _ways_out(observation: "Observation", was_named: bool) -> Iterator[str]:
    refusals = [snapshot.refusal for snapshot in observation.snapshots if snapshot.refusal is not None]
    if refusals:
        yield _way_out(refusals[-1], was_named)
    if not was_named:
        yield _NAME_ONE
    if any(source.kind == "pgbouncer" and not source.ok for source in observation.sources):
        yield "its admin console is the database pgbouncer, for a user of admin_users or stats_users"
    yield "check the address, and that something listens there"


def _way_out(refusal: "Refusal", was_named: bool) -> str:
    if refusal.by == "authentication":
        return (
            "check the role (-U) and its password, which libpq takes from ~/.pgpass, PGPASSFILE or PGPASSWORD; "
            "pg_hba.conf has to let it in from here"
        )
    if refusal.by == "starting-up":
        return "it is starting, stopping or recovering: try again in a moment"
    if refusal.sqlstate == _NO_DATABASE:
        return "name a database that exists with -d; -d postgres is nearly always there"
    if "SSL negotiation" in refusal.text or "expected authentication request" in refusal.text:
        return "what listens on that port does not speak PostgreSQL's protocol: check the port"
    if not was_named:
        return _NAME_ONE
    if "password" in refusal.text:
        return "a password comes from ~/.pgpass, PGPASSFILE or PGPASSWORD"
    return (
        "check host and port, and that the server runs; from its own host, -h takes the folder of its Unix socket, too"
    )
