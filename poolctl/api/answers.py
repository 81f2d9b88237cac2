"""Whether any source answered, and what to do where none did.

Decides what counts as an answer: a refusal that is about connections is one.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from poolctl.api.results import SOURCE_NAMES
from poolctl.errors import CannotConnect, CannotDo
from poolctl.observe.refusals import TOO_MANY_CONNECTIONS

if TYPE_CHECKING:
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Observation, Refusal, Snapshot

SAYS_FULL = (
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
    "no-local-port",
)
"""Refusals that are about connections: a server that refuses for lack of slots has answered."""

_NO_DATABASE = "3D000"
_NAME_ONE = 'name a server: poolctl inspect "host=... dbname=..." or -h HOST -d DATABASE, or set PGHOST'


def has_answered(observation: "Observation") -> bool:
    """Return True if any source reported something about connections."""
    return observation.log is not None or any(_is_answer(snapshot) for snapshot in observation.snapshots)


def check_answered(observation: "Observation", *, is_named: bool) -> None:
    """Raise CannotDo if there is nothing to diagnose, with every source that failed and why."""
    if has_answered(observation):
        return
    failed = [source for source in observation.sources if not source.ok and source.kind != "host"]
    if not failed and observation.is_from_files:
        raise CannotDo(
            "the evidence shows no connection, no pool and no line of a log",
            hint='psql -c "select now(), * from pg_stat_activity" > activity.txt',
        )
    if not failed:
        raise CannotDo(
            "there is no sample to diagnose",
            hint="the recording holds no snapshot: record again, and let it run until the first sample",
        )
    lines = [f"cannot sample {SOURCE_NAMES[source.kind]} {source.target}: {source.reason}" for source in failed]
    raise CannotConnect("\n".join(lines), hint=next(_suggest_hints(observation, is_named), ""))


def _is_answer(snapshot: "Snapshot") -> bool:
    if snapshot.server is not None or snapshot.bouncers or snapshot.pgpools or snapshot.pools:
        return True
    if snapshot.refusal is None:
        return False
    if snapshot.refusal.by == "pooler" and snapshot.refusal.sqlstate != TOO_MANY_CONNECTIONS:
        # Not known to be about connections: a parameter or database that it does not know, for one.
        return False
    return snapshot.refusal.by in SAYS_FULL or _has_full_listen_queue(snapshot)


def _has_full_listen_queue(snapshot: "Snapshot") -> bool:
    """Return True if no local server listens on the port, but connections to it wait to be accepted."""
    host, refusal = snapshot.host, snapshot.refusal
    if host is None or host.has_server or refusal is None or refusal.by != "unreachable":
        return False
    endpoint = refusal.target.partition("/")[0]
    return any(waiting and endpoint.endswith(f":{port}") for port, waiting in host.listen_queues.items())


def _suggest_hints(observation: "Observation", is_named: bool) -> Iterator[str]:
    """Yield what to do when no source answered, the most specific first."""
    refusals = [snapshot.refusal for snapshot in observation.snapshots if snapshot.refusal is not None]
    if refusals:
        yield _explain_refusal(refusals[-1], is_named)
    if not is_named:
        yield _NAME_ONE
    if any(source.kind == "pgbouncer" and not source.ok for source in observation.sources):
        yield "its admin console is the database pgbouncer, for a user of admin_users or stats_users"
    yield "check the address, and that something listens there"


def _explain_refusal(refusal: "Refusal", is_named: bool) -> str:
    if refusal.by == "authentication":
        return (
            "check the role (-U) and its password, which libpq takes from ~/.pgpass, PGPASSFILE or PGPASSWORD; "
            "pg_hba.conf must allow the role from this host"
        )
    if refusal.by == "starting-up":
        return "it is starting, stopping or recovering: try again in a moment"
    if refusal.sqlstate == _NO_DATABASE:
        return "name a database that exists with -d; -d postgres is nearly always there"
    if "SSL negotiation" in refusal.text or "expected authentication request" in refusal.text:
        return "what listens on that port does not speak PostgreSQL's protocol: check the port"
    if refusal.sqlstate is not None:
        return (
            "this is what the server, or a pooler in front of it, answers: it runs, and its log or its provider's "
            "documentation says what the text means"
        )
    if not is_named:
        return _NAME_ONE
    if "password" in refusal.text:
        return "libpq takes a password from ~/.pgpass, PGPASSFILE or PGPASSWORD"
    if refusal.target.startswith("local:"):
        return "no server has its Unix socket here; -h HOST names another host: a word alone is a database, as in psql"
    return (
        "check host and port, and that the server runs; on its own host, -h also accepts the folder of its Unix socket"
    )


def stop_without_answer(sampler: "Sampler", stop: Callable[[], bool]) -> Callable[[], bool]:
    """Make a function that stops when ``stop`` does, or when no source answered and none can answer any more."""

    def is_over() -> bool:
        if stop():
            return True
        observation = sampler.observation
        return bool(observation.snapshots) and not has_answered(observation) and not sampler.awaits_server

    return is_over
