"""The catalog of findings: each code once, with its layer, meaning, remedy, SQL and properties.

Decides everything about a finding that does not depend on the situation. The rules decide whether it is reported,
how sure it is, its sentence and its evidence; they build it with ``build_finding``. docs/findings.md and ``poolctl
inspect --explain`` are made from this file. To add a finding, add an entry here and a staged example in
tests/finding_examples.py; a test holds every code in the tree to this catalog.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from textwrap import wrap
from typing import Any, Literal

from poolctl.diagnose import sql
from poolctl.diagnose.examples import EXAMPLES
from poolctl.diagnose.finding import Confidence, Finding, Holder, Layer, Severity
from poolctl.errors import BadInput

Command = Literal["inspect", "simulate", "recommend", "guard"]
SizeRefusal = Literal["always", "of its holder", "of its holder, if critical", "if critical"]
Moot = Literal["in a refusal", "beside a cause"]

RELEASE = "Release the connection on every path of that code: finally, with, defer."
DELAYS = "A bigger pool only delays the end."
LENGTHENS = "A bigger pool only lengthens the queue."
END_NOTHING = "End nothing yet:"
SIZE_POOL = "Size the pool from the measured concurrency (poolctl recommend), within the server's free slots."
RAISE_POOL_SIZE = (
    "Raise pool_size (default_pool_size, max_db_connections) within the server's free slots, as long as the server's "
    "processors are not busy."
)
RAISE_CLIENTS = (
    "Raise max_client_conn, with the limit of open files (nofile) above it, or close clients that are not needed."
)
RAISE_CHILDREN = (
    "Raise num_init_children within the server's slots (num_init_children x max_pool), close idle clients "
    "(client_idle_limit), and set reserved_connections so that Pgpool-II refuses clients instead of letting them hang."
)
LOOK_THE_SAME = (
    f"{END_NOTHING} transactions that never end, idle clients in session mode and a pool that is too small look the "
    "same from here, and their remedies are opposite."
)


TREAT_CAUSE = "Treat the cause that is reported beside this finding, or end what the largest application does not use."
FIND_CAUSE = "Lower max_open of the largest application, or end what it does not use; the cause was not found."
RELIEVE_SLOTS = (
    "A superuser or a member of pg_use_reserved_connections can still connect while reserved slots last. Raising "
    "max_connections needs a restart, costs memory for each slot and only moves the limit."
)
NOT_BY_STATE = "End no backend by its state alone: a parked connection of a healthy pool looks the same."


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingType:
    """What is true of every finding with this code. Texts are sentences for people; ``sql`` may be empty."""

    code: str
    title: str
    layer: Layer
    """The usual one; a rule may name another, as the same cause occurs in a pooler's pool too."""
    reported_by: tuple[Command, ...]
    meaning: str
    signs: str
    """What it looks like."""
    mistaken_for: str
    remedy: str
    decided_by: str
    """What would decide between it and what it is mistaken for."""
    sql: tuple[str, ...] = ()
    """The usual statement first, then the ones for other situations."""

    explains_waits: bool = False
    """Clients that wait are explained by it, so no other cause is looked for."""
    slows_every_connection: bool = False
    """Under it every connection is slow, and a pool of any size becomes full."""
    relief_order: int = 0
    """The position of its holders in the relief plan, from 1; 0: they are never ended."""
    comes_back: bool = False
    """Its connections come back by themselves, so that ending them costs work and frees nothing for long."""
    needs_no_privilege: bool = False
    """It rests on what every role can see, or on a refusal: hidden states do not make it less sure."""
    may_head_locks: bool = False
    """A cause that may sit at the head of a lock queue."""
    rests_on_pools: bool = False
    """It rests on figures of a pool: whose they are makes it no surer than that is known."""
    rests_on_times: bool = False
    """It rests on measured times, which a load generator out of processor time, or half a run, would spoil."""
    refuses_size: SizeRefusal | None = None
    """Whether recommend gives no size because of it: of any application, only of the one that holds its connections,
    or only while clients are refused or wait."""
    is_moot: Moot | None = None
    """It is about the size itself or asks for a larger pool, which is pointless once no size is given."""


_CATALOG = (
    FindingType(
        code="healthy",
        title="Nothing is wrong",
        layer="database",
        reported_by=("inspect", "simulate", "recommend", "guard"),
        meaning="No finding at warning or above. Advice (info) may stand beside it.",
        signs="Connections are acquired and released, and no client waits for long. The evidence holds notes about "
        "what looks like trouble and is none, such as one long transaction or parked connections.",
        mistaken_for="A system that was not loaded while it was observed; or, with confidence undetermined, a system "
        "of which too little could be observed for any other answer.",
        remedy="Nothing. If users see errors all the same, observe at the time of the errors, with the figures of the "
        "applications' own pools (--pool-stats).",
        decided_by="The pools' own figures (--pool-stats): the server cannot see which clients wait in a pool.",
        sql=(sql.BACKENDS,),
        rests_on_times=True,
    ),
    # Limits.
    FindingType(
        code="slots-exhausted",
        title="The server has no connection slot left",
        layer="database",
        reported_by=("inspect", "simulate"),
        meaning="PostgreSQL refuses ordinary roles because every slot is taken. It is an effect: something else took "
        "the slots, and is reported beside it where it was found.",
        signs='Clients get "sorry, too many clients already" or "remaining connection slots are reserved" (SQLSTATE '
        "53300).",
        mistaken_for="A limit of a role or database (role-limit), or of a pooler (pooler-client-limit), whose refusals "
        "read alike; a pooler may also repeat an old answer of the server.",
        remedy=f"{TREAT_CAUSE} {RELIEVE_SLOTS}",
        decided_by="Connecting to the server without the pooler: whether the server itself refuses.",
        sql=(sql.SLOTS, sql.POOLER_LINKS),
        explains_waits=True,
        needs_no_privilege=True,
    ),
    FindingType(
        code="slots-low",
        title="A connection limit is nearly reached",
        layer="database",
        reported_by=("inspect",),
        meaning="Less than a tenth of a limit of the server, a role or a database is free, or at the present growth "
        "the rest lasts less than a minute; or the least in use has risen for half an hour or longer, and takes the "
        "rest within a week. As advice (info): the rise takes longer, or 85 % of the server's slots are taken, quiet "
        "so far.",
        signs="The number of connections grows from sample to sample, or stands just below the limit; over hours, the "
        "least in use does not come back to what it was.",
        mistaken_for="A large fleet of idle connections that is sized to its limit and does not grow; the load of a "
        "morning, which goes again in the evening.",
        remedy="Find out what grows before the limit is reached, and add up what every instance may open "
        "(fleet-over-budget). A large idle fleet below its limit needs nothing.",
        decided_by="A second sample, which shows how fast it grows.",
        sql=(sql.SLOTS, sql.ROLE_LIMITS),
    ),
    FindingType(
        code="role-limit",
        title="A role or database is at its own connection limit",
        layer="database",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="A CONNECTION LIMIT of a role or database refuses clients while the server still has slots.",
        signs='Clients get "too many connections for role" or "too many connections for database".',
        mistaken_for="A full server (slots-exhausted). max_connections is not the limit here.",
        remedy="Make that role's pools (instances x max_open) fit under the limit, or raise it: ALTER ROLE or ALTER "
        "DATABASE ... CONNECTION LIMIT. Superusers are exempt: test with the application's role.",
        decided_by="The text of the refusal, which names the role or the database.",
        sql=(sql.ROLE_LIMITS,),
        explains_waits=True,
        needs_no_privilege=True,
    ),
    FindingType(
        code="fleet-over-budget",
        title="The instances together may open more than the server can give",
        layer="application",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="Instances x processes x max_open is more than the usable slots. It may be quiet now: the next busy "
        "minute or the next deploy, which runs old and new instances together, gets there.",
        signs="Refusals in a deploy or at the peak, from instances that are each within their own limit.",
        mistaken_for="A leak: both fill the server. Here the connections work and come back.",
        remedy="Bound each instance so that all of them fit, with room for the instances that a deploy adds; if that "
        "is too little for each, put PgBouncer in transaction mode in front.",
        decided_by="The configured maxima: max_open of every pool, the instances, and what a deploy adds.",
        sql=(sql.BACKENDS, sql.SLOTS),
    ),
    FindingType(
        code="handshake-pile-up",
        title="Connections hold slots without having logged in",
        layer="database",
        reported_by=("inspect",),
        meaning="Backends were started for clients that never finish logging in. Each takes a slot until "
        "authentication_timeout (60 s).",
        signs="Backends in the state starting (PostgreSQL 18), process titles that say authentication, or a server "
        "that refuses although fewer backends are visible than it has slots.",
        mistaken_for="The first second of a rollout, in which many instances connect at once.",
        remedy="Use a pool instead of a connection for every request. Check health probes that only open the port, and "
        "what makes logging in slow. authentication_timeout ends each of these connections.",
        decided_by="The process titles on the server's own machine, or PostgreSQL 18, which shows the state.",
        sql=(sql.STARTING,),
    ),
    # Connections that do not come back.
    FindingType(
        code="leak",
        title="Connections are acquired and never released",
        layer="application",
        reported_by=("inspect", "simulate", "guard"),
        meaning="Code of the application keeps connections that it no longer uses. Each one is lost until the process "
        "ends.",
        signs="The pool counts connections as in use that are idle on the server and stay so; the number in use climbs "
        "and never falls; later, clients wait for a full pool.",
        mistaken_for="A long hold, which comes back (long-hold); a large pool, most of whose connections are idle and "
        "free (oversized-pool); a pool that is too small (pool-undersized).",
        remedy=f"{RELEASE} Keep the pool bounded (max_open), so that a leak stops one instance and not the server. "
        f"{DELAYS}",
        decided_by="A number in use that climbs in three steps and never falls, over a window longer than the longest "
        "hold that is legitimate.",
        sql=(sql.IDLE, sql.BACKENDS, sql.UNREAD),
        relief_order=10,
        refuses_size="of its holder",
        rests_on_pools=True,
    ),
    FindingType(
        code="leak-in-transaction",
        title="Transactions are left open and their connections are never released",
        layer="application",
        reported_by=("inspect", "simulate", "guard"),
        meaning="Code of the application begins transactions and ends them on no path. Their connections are lost, "
        "their locks are kept, and vacuum cannot remove rows that they may still see.",
        signs="Several backends of one application are idle in transaction in the same transaction for much longer "
        "than its other transactions take, and their number grows.",
        mistaken_for="Work elsewhere inside a transaction, which ends (held-across-io); holders that wait for a second "
        "connection (self-deadlock); one person with an open client program.",
        remedy="Commit or roll back, and release, on every path of that code: finally, with, defer. Until that is "
        "deployed, end these backends, and set idle_in_transaction_session_timeout for the application's role. "
        f"{DELAYS}",
        decided_by="Observing for longer than the acquire timeout (usually 30 s): holders that wait for a second "
        "connection fail and release by then, a leak stays.",
        sql=(sql.TRANSACTIONS,),
        relief_order=6,
        may_head_locks=True,
        refuses_size="of its holder",
    ),
    FindingType(
        code="leak-or-long-hold",
        title="Connections stand still, and the cause is open",
        layer="application",
        reported_by=("inspect", "guard"),
        meaning="Connections do nothing while clients wait for them, or all of an application fell silent one after "
        "the other, or most of its backends are in transactions for long. They are leaked, or belong to a long job "
        "that will release them, or no request came since. The remedies are opposite, so poolctl does not guess.",
        signs="The same backends are in the same state in every sample, a pool or pooler reports clients that wait, "
        "and no such hold was observed to end.",
        mistaken_for="Either of the two that it names. A stopped client process looks the same from the server.",
        remedy=f"{END_NOTHING} if they are leaked, release on every path (finally, with, defer); if they are long "
        "jobs, give those a pool of their own. A bigger pool helps neither.",
        decided_by="Observing for longer than the longest hold that is legitimate (--for): a connection that comes "
        "back is a long hold, a number in use that only climbs is a leak. Or ask the process where its connections "
        "are, and its machine whether the process is stopped.",
        sql=(sql.IDLE, sql.POOLER_LINKS),
        rests_on_pools=True,
    ),
    FindingType(
        code="long-hold",
        title="Connections are held for long, and come back",
        layer="application",
        reported_by=("inspect", "simulate", "guard"),
        meaning="A few jobs keep connections for seconds or minutes while other clients wait for them.",
        signs="Holds of more than a second and ten times the median that end; sessions that LISTEN, or hold an "
        "advisory lock or a cursor; the same holders while no connection is acquired; or, undetermined, most "
        "backends of an application in one statement each for long.",
        mistaken_for="A leak: it looks the same until the first of them is released.",
        remedy="Release before the slow part, or give long jobs a small pool of their own and count it as taken for "
        "good. A bigger shared pool is filled by the same jobs.",
        decided_by="A release of one of these connections.",
        sql=(sql.IDLE, sql.BACKENDS),
        comes_back=True,
        rests_on_times=True,
        rests_on_pools=True,
    ),
    FindingType(
        code="held-across-io",
        title="Connections are held while the application does something else",
        layer="application",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="Transactions stay open while the application calls another service, renders or computes. The pool is "
        "sized for the other service's answers.",
        signs="A large share of the time in use is idle in transaction, in pauses of 50 ms or more, and the "
        "transactions do end.",
        mistaken_for="leak-in-transaction, where they do not end; pool-undersized, where the connections work all the "
        "time.",
        remedy="Move the other work out of the transaction, or release the connection before it. A bigger pool only "
        "moves the limit.",
        decided_by="A window longer than the longest such call, with the figures of the pool (--pool-stats).",
        sql=(sql.TRANSACTIONS,),
        comes_back=True,
        rests_on_times=True,
        refuses_size="of its holder, if critical",
    ),
    FindingType(
        code="self-deadlock",
        title="Every holder of a connection waits for a second one",
        layer="application",
        reported_by=("inspect", "simulate", "recommend", "guard"),
        meaning="Requests that hold one connection acquire another. When all connections are held by such requests, "
        "none of them can go on until an acquire times out.",
        signs="All connections of a pool come to rest at the same moment, none is active, and as many clients wait as "
        "hold. It ends at the acquire timeout and begins again.",
        mistaken_for="A leak, whose connections come to rest one by one; calls elsewhere that began together "
        "(held-across-io).",
        remedy="Pass the connection down instead of acquiring a second one while one is held. Until then a pool of "
        "threads x (connections each - 1) + 1 is the smallest that cannot deadlock with itself; below that more "
        "connections do not help.",
        decided_by="Whether acquires time out whenever the connections come back together: the pool's figures, or the "
        "application's log.",
        sql=(sql.TRANSACTIONS,),
        relief_order=8,
        may_head_locks=True,
        refuses_size="of its holder",
    ),
    FindingType(
        code="aborted-transaction",
        title="Failed transactions were not rolled back",
        layer="application",
        reported_by=("inspect",),
        meaning="A statement failed, and the code that caught the error neither rolled back nor released.",
        signs="Backends in the state idle in transaction (aborted) for more than a second.",
        mistaken_for="A person at a client program who left a failed transaction open.",
        remedy="Roll back and release where the error is caught (except, finally, with, defer): the error path forgets "
        "it. Meanwhile idle_in_transaction_session_timeout ends these backends.",
        decided_by="The state itself, for a role that may see it (pg_monitor).",
        sql=(sql.ABORTED,),
        relief_order=4,
        may_head_locks=True,
        refuses_size="of its holder",
    ),
    FindingType(
        code="slow-reader",
        title="Statements wait for a client that does not read their rows",
        layer="application",
        reported_by=("inspect",),
        meaning="The server has rows to send and the client takes none, so the statement and its connection stay busy.",
        signs="Active backends with the wait event ClientWrite, in the same statement in every sample.",
        mistaken_for="A slow statement: the server has finished its part here. COPY and dumps are slow on purpose and "
        "are not counted.",
        remedy="Read the result to its end or close it on every path (rows.Close, with cursor). Fetch first and "
        "release, then send. For large results use a server-side cursor on a pool of its own.",
        decided_by="A second sample of the same statement.",
        sql=(sql.UNREAD,),
        relief_order=9,
    ),
    FindingType(
        code="stuck-protocol",
        title="A client began a message and never finished it",
        layer="application",
        reported_by=("inspect",),
        meaning="The backend waits for the rest of a message of the client. No timeout of the server ends that.",
        signs="Active backends with the wait event ClientRead, not in COPY, for more than a minute.",
        mistaken_for="COPY FROM STDIN, which waits for its client in the same way; a pipeline that pauses for a "
        "moment.",
        remedy="End these backends: no timeout of the server reaches them. Fix how that client cancels a statement in "
        "the middle of a pipeline.",
        decided_by="Whether it is still so after a minute, and that the statement is not COPY.",
        sql=(sql.HALF_SENT,),
        relief_order=3,
    ),
    FindingType(
        code="pool-slots-lost",
        title="The pool counts connections that the server does not have",
        layer="application",
        reported_by=("inspect", "simulate"),
        meaning="Connections were dropped or cut without being given back, and the pool still counts them as in use. "
        "Their slots in the pool are lost, on the server they are free.",
        signs="The pool reports more connections in use than its application has on the server, in every sample.",
        mistaken_for="A leak, whose connections still exist on the server; a restart of the server, after which the "
        "counts differ for a moment; a pool whose connections carry another application_name than its figures say.",
        remedy="Never drop a connection: give it back on every path (putconn in finally, or with), also a broken one. "
        "Restart this process to get the slots back. Raising the pool's limit only delays the end.",
        decided_by="The pool's figures and the server's backends, side by side in two samples.",
        sql=(sql.BACKENDS,),
        explains_waits=True,
        refuses_size="of its holder",
    ),
    # Clients and their machines.
    FindingType(
        code="backends-beyond-pool",
        title="A client has more backends than its pools may open",
        layer="application",
        reported_by=("inspect",),
        meaning="A process has more backends on the server than the limits of all its pools allow. The pool keeps its "
        "limit; the others were opened beside it, or by pools that were dropped without being closed.",
        signs="The pool's figures are in order, the server shows more backends of the same process, and as many of "
        "them as there are too many do nothing.",
        mistaken_for="A second pool of that process that exports no figures, or several instances behind one address; "
        "a leak, whose connections the pool counts as in use.",
        remedy="Make one pool for each process, when it starts, and close it before another is made (reload, tests, "
        "changed settings). Let all code take its connections from it.",
        decided_by="The places in the client's code that open connections or make pools (poolctl guard names them).",
        sql=(sql.STARTS, sql.BACKENDS),
        rests_on_pools=True,
        refuses_size="of its holder",
    ),
    FindingType(
        code="frozen-clients",
        title="A client's process is stopped and keeps its connections",
        layer="host",
        reported_by=("inspect",),
        meaning="The process that owns the connections can neither use nor release them: it is stopped, suspended or "
        "gone without closing them.",
        signs="All backends of one client stand still while the backends of its peers work. On the client's machine "
        "the process is in state T.",
        mistaken_for="A leak in that process; a client that is idle at night.",
        remedy="Let the process go on (kill -CONT) or end it: then the kernel closes its connections. "
        "client_connection_check_interval and keepalives do not notice a stopped process; its machine must. "
        f"{NOT_BY_STATE}",
        decided_by="The client's machine: whether the process is there, and not stopped.",
        sql=(sql.CLIENTS,),
        relief_order=5,
        may_head_locks=True,
        refuses_size="of its holder",
    ),
    FindingType(
        code="orphaned-backends",
        title="Backends work for a client that no longer exists",
        layer="host",
        reported_by=("inspect",),
        meaning="The client ended, and the server has not noticed: it finishes the statement, or keeps the transaction "
        "open, for no client.",
        signs="Active or in a transaction, with a client's port on this machine that no process owns.",
        mistaken_for="A client in another network namespace (container), whose process cannot be seen from here.",
        remedy="End them. Set client_connection_check_interval = 10s (PostgreSQL 14+), so that the server notices, and "
        "tcp_keepalives_idle = 60 for clients that vanish without closing.",
        decided_by="The sockets of the client's machine.",
        sql=(sql.CLIENTS,),
        relief_order=2,
        may_head_locks=True,
    ),
    FindingType(
        code="client-starved",
        title="Acquires fail although connections are free",
        layer="host",
        reported_by=("inspect", "simulate"),
        meaning="The client process itself has no time to take a free connection, or cannot reach the server: its "
        "event loop or its processor is busy. Neither the pool nor the database is the limit.",
        signs="Timeouts in the pool's figures, or clients that wait, while connections of the pool are idle.",
        mistaken_for="A pool that is too small; a server that cannot be reached.",
        remedy="Look at that process's processor time and limit, at what blocks its event loop or holds its "
        "interpreter, and at whether the server can be reached. The pool's size is not the cause.",
        decided_by="The lag of the event loop, or the server's log: whether the connections arrived.",
        sql=(sql.BACKENDS, sql.SLOTS),
        explains_waits=True,
        rests_on_pools=True,
    ),
    FindingType(
        code="waiting-unexplained",
        title="Clients wait, and nothing observed says for what",
        layer="application",
        reported_by=("inspect",),
        meaning="A pool or a pooler reports clients that wait, and no cause was found. It is never healthy, and no "
        "remedy follows from it yet.",
        signs="Waiting clients in the figures of a pool or of a pooler, and no full pool, no lock, no slow statement "
        "and no limit that explains them.",
        mistaken_for="A pool that is too small.",
        remedy="Change nothing yet. Look at the process that waits: its processor time, its event loop or threads, and "
        "whether it can open connections at all.",
        decided_by="A longer observation of the server, its poolers and the pools' own figures together.",
        sql=(sql.BACKENDS,),
    ),
    FindingType(
        code="evidence-unread",
        title="Evidence that was given could not be read",
        layer="application",
        reported_by=("inspect",),
        meaning="A source that was named on the command line gave no answer or nothing that poolctl understands, so no "
        "verdict can rest on it, and health cannot be claimed.",
        signs="A file or address of --pool-stats, --pgbouncer, --pgpool or --evidence with a reason beside it.",
        mistaken_for="A healthy system.",
        remedy="Give it again in a form that poolctl reads; the reason says what was found in it. Names of your own "
        "are mapped with --pool-stats-map.",
        decided_by="The same evidence in a form that can be read.",
        needs_no_privilege=True,
    ),
    # The database at work.
    FindingType(
        code="lock-queue",
        title="Statements wait for a lock behind one backend",
        layer="database",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="One transaction holds a lock, and the backends behind it keep their connections while they wait.",
        signs="Active backends with a wait event of type Lock, all of them behind the same root, which is often idle "
        "in transaction.",
        mistaken_for="A pool that is too small. A row that all clients change has many waiters too, each for "
        "milliseconds; queues for advisory locks are often meant.",
        remedy="Find the backend at the head of the queue (pg_blocking_pids) and end or shorten its transaction: that "
        f"frees the others, too. Set lock_timeout for migrations. {LENGTHENS}",
        decided_by="pg_blocking_pids() as a member of pg_monitor: which backend is the root, and what it does.",
        sql=(sql.LOCKS,),
        explains_waits=True,
        slows_every_connection=True,
        relief_order=1,
        refuses_size="if critical",
    ),
    FindingType(
        code="slow-database",
        title="The database is the limit, not the pool",
        layer="database",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="Statements take all that the database's processors and disks can give, or are slow by themselves. "
        "More connections would wait there instead of in the pool.",
        signs="More statements at work than twice the cores, processors that are busy, or one statement with most of "
        "the execution time that reads a table from end to end.",
        mistaken_for="A pool that is too small: both make clients wait for a full pool.",
        remedy="Make the statement that takes most of the time cheaper or rarer (an index, a better plan, fewer "
        "calls), or add cores. No size of the pool helps.",
        decided_by="How many cores the server has and how busy they are, and the share of the top statement "
        "(pg_stat_statements).",
        sql=(sql.SCANS, sql.STATEMENTS, sql.ACTIVE),
        explains_waits=True,
        slows_every_connection=True,
        refuses_size="always",
    ),
    FindingType(
        code="connection-churn",
        title="Connections are opened for too little work",
        layer="application",
        reported_by=("inspect", "simulate"),
        meaning="A new connection is opened for every few transactions. Opening costs a process and milliseconds each "
        "time.",
        signs="Many new sessions a second, most of them gone again; a sample of the server shows almost none of them. "
        "Before a pooler the server shows nothing: the pooler's clients come and go, and on their machine the ports of "
        'closed connections pile up (TIME_WAIT), until "Cannot assign requested address".',
        mistaken_for="A fleet that starts up, whose connections stay; health checks and cron jobs.",
        remedy="Keep connections: one pool for each process with max_idle = max_open, created once and closed at exit; "
        "where processes are short-lived, PgBouncer in front. PHP-FPM: PDO::ATTR_PERSISTENT. psycopg2's pool keeps "
        "only minconn connections. A pooler does not help clients that connect to it for each statement: they need a "
        "pool of their own.",
        decided_by="The server's counters of sessions (PostgreSQL 14+) over ten seconds or more, its log with "
        "log_connections, or ss -tan state time-wait on the client's machine.",
        sql=(sql.CHURN, sql.STARTS),
    ),
    FindingType(
        code="connection-per-request",
        title="Connections are opened for a single use and left open",
        layer="application",
        reported_by=("inspect",),
        meaning="The application opens a connection, or a whole pool, for each request, thread, reload or test, uses "
        "it once and leaves it open. No limit holds, and the server's slots run out in time.",
        signs="Idle backends that each did all their work in the first second after they were opened and nothing "
        "since, opened one by one or in batches, while others of the same client already rested. One sample shows it.",
        mistaken_for="A pool that is too large, or parked connections: a pool opens a connection only while all of "
        "its others are in use. A leak in which each connection is lost at its first use looks the same.",
        remedy="Create one pool for each process, when it starts, and close it when the process ends. Django with "
        "threads (ASGI): CONN_MAX_AGE = 0, or its pool. Frameworks that reload or test: close the pool in the hook for "
        "shutdown. Until that is deployed, idle_session_timeout (PostgreSQL 14+) closes what is left.",
        decided_by="The line in the client's code that opens connections or creates pools (poolctl guard names it).",
        sql=(sql.STARTS, sql.BACKENDS),
        refuses_size="of its holder",
    ),
    FindingType(
        code="reconnect-storm",
        title="All clients reconnect at once after a restart",
        layer="application",
        reported_by=("inspect", "simulate"),
        meaning="After a restart or failover every client tries again at once and without a pause, and the logins "
        "themselves keep the server busy.",
        signs="Many backends that started within two seconds of each other after the server did, logins that do not "
        "finish, refusals.",
        mistaken_for="A planned rollout; connection-churn, which goes on without a restart.",
        remedy="Back off with jitter before trying again, and bound parallel openings; a pooler in front keeps the "
        "rush from the server. Find what restarted it: the size of the pools did not.",
        decided_by="The time of the restart, and errors that end when the clients back off.",
        sql=(sql.STARTS, sql.BACKENDS),
    ),
    FindingType(
        code="pool-undersized",
        title="The pool is too small for its work",
        layer="application",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="Every connection works and comes back quickly, clients wait all the same, and the server has time to "
        "spare. It is the only finding whose remedy is a bigger pool.",
        signs="The pool is full in nearly every sample, clients wait, all backends change from sample to sample, and "
        "the server's processors are not busy.",
        mistaken_for="A leak, a lock queue or a slow database: all of them show a full pool, and a bigger pool makes "
        "each of them worse.",
        remedy=f"{SIZE_POOL} A pool of PgBouncer: {_lower(RAISE_POOL_SIZE)}",
        decided_by="The server's backends and the pool's figures side by side: every backend has to change.",
        sql=(sql.BACKENDS, sql.POOLER),
        rests_on_times=True,
        rests_on_pools=True,
    ),
    FindingType(
        code="oversized-pool",
        title="A pool is larger than its work needs, or has no bound",
        layer="application",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="Most connections of a pool do nothing and no client waits; or nothing bounds the pool, and it grew "
        "near the server's limit.",
        signs="More than half of the connections are idle in the whole window, none is opened, no client waits.",
        mistaken_for="A leak: from the server both are connections that do nothing. A pool of fixed size may be meant.",
        remedy="Nothing, while the fleet is far from its budget. Otherwise lower max_open to what the peak needs "
        "(poolctl recommend). End nothing: these are parked connections.",
        decided_by="A window that contains the peak, with the pool's own figures.",
        sql=(sql.BACKENDS,),
    ),
    # Poolers.
    FindingType(
        code="pooler-pinned-transaction",
        title="Open transactions keep the pooler's server connections",
        layer="pooler",
        reported_by=("inspect", "simulate"),
        meaning="In transaction mode a server connection belongs to its client until the transaction ends. Clients "
        "that do not end theirs leave none for the others.",
        signs="No server connection of the pool is idle, clients wait in the pooler, and the backends behind it are "
        "idle in transaction.",
        mistaken_for="A pool of PgBouncer that is too small (pool-undersized), or session mode (pooler-session-mode).",
        remedy="End the transaction on every path of that application: commit, roll back, close. As a net, set "
        "PgBouncer's idle_transaction_timeout; from 1.24 on KILL_CLIENT ends one client. A bigger pool_size is pinned "
        "by the same code.",
        decided_by="The pooler's admin console (--pgbouncer) together with the server: what the backends behind these "
        "connections do.",
        sql=(sql.POOLER_LINKS, sql.POOLER),
        relief_order=7,
    ),
    FindingType(
        code="pooler-session-mode",
        title="Idle clients keep server connections in session mode",
        layer="pooler",
        reported_by=("inspect", "simulate"),
        meaning="In session mode a server connection belongs to its client until the client disconnects, also while "
        "the client does nothing.",
        signs="The pooler counts its server connections as active, PostgreSQL shows the same backends as idle, and "
        "clients wait.",
        mistaken_for="A pool of PgBouncer that is too small; a leak in the application.",
        remedy="Use pool_mode = transaction if the application keeps no session state (LISTEN, temporary tables, "
        "advisory locks); otherwise keep the applications' pools together no larger than pool_size, and set "
        "client_idle_timeout.",
        decided_by="The pool's mode on the admin console (--pgbouncer), and the states of the backends behind it.",
        sql=(sql.POOLER_LINKS, sql.POOLER),
    ),
    FindingType(
        code="pooler-client-limit",
        title="The pooler accepts no more clients",
        layer="pooler",
        reported_by=("inspect", "simulate", "recommend"),
        meaning="PgBouncer is at max_client_conn or a database of it is paused, or every child of Pgpool-II is busy. "
        "The database is not the limit.",
        signs='PgBouncer refuses with "no more connections allowed". Pgpool-II refuses nothing: clients hang in '
        "connect.",
        mistaken_for="A full server; a network that drops packets, as clients hang in the same way.",
        remedy=f"PgBouncer: {_lower(RAISE_CLIENTS)} Pgpool-II: {_lower(RAISE_CHILDREN)}",
        decided_by="pcp_proc_info, or the length of the pooler's listen queue on its machine (ss -ltn): it may be the "
        "network.",
        sql=(sql.POOLER, sql.PGPOOL),
        needs_no_privilege=True,
    ),
    # Advice.
    FindingType(
        code="no-safety-net",
        title="Nothing keeps a mistake small",
        layer="database",
        reported_by=("inspect",),
        meaning="Advice: a setting that would have bounded this or the next incident is missing.",
        signs="Applications log in as superusers, no slot is kept back for operators, a monitor opens many "
        "connections, or every timeout is off.",
        mistaken_for="Timeouts that the client sets for each session, which the server does not show.",
        remedy="Give applications ordinary roles with lock_timeout and statement_timeout of their own, and keep "
        "reserved_connections (16+) for operators. No blanket idle_in_transaction_session_timeout: it also ends "
        "sessions that hold advisory locks in a transaction, and hides the bug.",
        decided_by="Nothing is open: the settings are read from the server.",
        sql=(sql.SAFETY,),
        needs_no_privilege=True,
    ),
    FindingType(
        code="partial-view",
        title="Not everything could be observed",
        layer="database",
        reported_by=("inspect",),
        meaning="The role may not see the state of other roles' backends, or the server refused and only its process "
        "titles are known. Every other finding is less sure because of it.",
        signs="Rows of pg_stat_activity without a state.",
        mistaken_for="A quiet server.",
        remedy="GRANT pg_monitor (or pg_read_all_stats) TO the role that poolctl uses; it takes no slot and changes "
        "nothing else.",
        decided_by="Nothing is open.",
        sql=(sql.HIDDEN,),
        needs_no_privilege=True,
    ),
    # Loads that a model run cannot finish.
    FindingType(
        code="endless-load",
        title="The load makes requests without any time passing",
        layer="application",
        reported_by=("simulate",),
        meaning="In the scenario each request takes no time at all, so that the next one follows at the same instant, "
        "for ever. The model stops after half a million events at one instant.",
        signs="A closed load with a hold and a think time of 0, or acquires that fail at once and are tried again "
        "without a pause.",
        mistaken_for="A very fast pool.",
        remedy="Give the load a hold or a think above 0, and an error_pause where acquires fail at once; or give "
        "arrivals by rate.",
        decided_by="Nothing is open: the model counts the events.",
    ),
    FindingType(
        code="endless-queue",
        title="The queue grows for ever",
        layer="application",
        reported_by=("simulate",),
        meaning="More requests arrive than are served, and none of them gives up. The model stops when a quarter of a "
        "million wait.",
        signs="Waits that grow as long as the load lasts.",
        mistaken_for="A burst that drains.",
        remedy="Set an acquire_timeout, so that requests give up before the queue is older than its answers are worth, "
        "and treat what makes them wait.",
        decided_by="Nothing is open: the model counts the queue.",
    ),
    # Reasons of recommend to doubt a size, or to give none.
    FindingType(
        code="hidden-by-pooler",
        title="A pooler hides the application's demand",
        layer="pooler",
        reported_by=("recommend",),
        meaning="poolctl measured behind a pooler. The server shows the pooler's connections and not what the "
        "application wants.",
        signs="The backends' clients are a pooler.",
        mistaken_for="A small demand.",
        remedy="Measure at the pooler (--pgbouncer, --pgpool) or in the application (--pool-stats), or give "
        "--arrival-rate and --hold-time.",
        decided_by="Figures of the pooler or of the application's pool.",
    ),
    FindingType(
        code="stats-reset",
        title="The server's statistics were reset in the window",
        layer="database",
        reported_by=("recommend",),
        meaning="Counters were set back while poolctl measured, so their differences mean nothing.",
        signs="stats_reset lies within the window.",
        mistaken_for="A load that fell.",
        remedy="Measure again without a reset.",
        decided_by="A second measurement.",
    ),
    FindingType(
        code="estimates-disagree",
        title="Estimates of the parallelism disagree",
        layer="application",
        reported_by=("recommend",),
        meaning="The number of connections in use at once, by samples, by counters and by throughput x hold time, must "
        "be about the same. It differs by more than a quarter.",
        signs="Two of the three estimates are far apart.",
        mistaken_for="A load that changes within the window.",
        remedy="Check whether transactions outlast the observation, a pooler hides clients, or others use this name.",
        decided_by="A longer window (--for), or one application (--application).",
    ),
    FindingType(
        code="demand-censored",
        title="A full pool hides the demand",
        layer="application",
        reported_by=("recommend",),
        meaning="A pool had every connection in use in more than 1 % of the samples. What it would have used beyond "
        "its limit cannot be measured from outside.",
        signs="The number in use stands at max_open.",
        mistaken_for="A demand that happens to equal max_open.",
        remedy="Measure again with a larger pool, or give the pools' own figures: clients that wait, wait times "
        "(--pool-stats).",
        decided_by="The clients that wait for the pool, its wait times, or a measurement with a larger pool.",
        is_moot="beside a cause",
    ),
    FindingType(
        code="few-samples",
        title="Too few samples for a percentile",
        layer="application",
        reported_by=("recommend",),
        meaning="The samples that are independent of each other are too few to bound the 99th (299 needed) or the 95th "
        "percentile (59 needed).",
        signs="A short window, or a load that changes slowly.",
        mistaken_for="A steady load.",
        remedy="Observe for longer (--for).",
        decided_by="A longer window.",
    ),
    FindingType(
        code="hold-unseen",
        title="How long clients hold idle connections was not observed",
        layer="application",
        reported_by=("recommend",),
        meaning="The load was measured at the server alone. It sees a connection as busy from the arrival of a "
        "statement to its end; the client holds it longer, to read results and to prepare the next statement. The size "
        "rests on an assumption about that time.",
        signs="A measurement without --pool-stats and without --hold-time.",
        mistaken_for="Parallelism: what is active at the server is less than what is in use in the pools.",
        remedy="Give the figures of the pools (--pool-stats: in use, acquires, use time), or --hold-time.",
        decided_by="The in_use of the pools, or their acquires and use times.",
    ),
    FindingType(
        code="peak-unseen",
        title="The window has probably missed the peak",
        layer="application",
        reported_by=("recommend",),
        meaning="poolctl measured for less than a quarter of an hour. A pool sized for that may be too small at the "
        "peak.",
        signs="A short window.",
        mistaken_for="The usual load.",
        remedy="Measure during the busiest 15 minutes, or give the --arrival-rate of the peak.",
        decided_by="A measurement at the peak.",
    ),
    FindingType(
        code="contention-cliff",
        title="Throughput falls beyond a number of connections",
        layer="database",
        reported_by=("recommend",),
        meaning="In the sweep more connections carried less: they hinder each other in the database.",
        signs="A peak of the throughput, and a fall after it.",
        mistaken_for="Noise of one point of the sweep.",
        remedy="Never let all pools together have more connections than at the peak; look for hot rows, locks or "
        "shared pages.",
        decided_by="A second sweep with more points around the peak.",
    ),
    FindingType(
        code="sweep-too-short",
        title="Throughput still rises at the end of the sweep",
        layer="database",
        reported_by=("recommend",),
        meaning="The most connections that were swept still carried more than fewer did, so at least that many are "
        "useful.",
        signs="The best point is the last one.",
        mistaken_for="The capacity of the database.",
        remedy="Sweep further: the finding names the next points.",
        decided_by="A sweep with more connections.",
    ),
    FindingType(
        code="sweep-inconsistent",
        title="Latencies and throughput of the sweep do not fit together",
        layer="application",
        reported_by=("recommend",),
        meaning="With connections that are always busy, latency is connections / throughput. The sweep's latencies "
        "differ from that.",
        signs="A constant factor, often 1000: milliseconds that were read as seconds.",
        mistaken_for="A slow database.",
        remedy="Give seconds, or name the column latency_ms; and count connections that are always busy, not clients.",
        decided_by="The unit of the column, and what the load test counted as a connection.",
    ),
    FindingType(
        code="demand-unknown",
        title="How many connections a process needs is not known",
        layer="application",
        reported_by=("recommend",),
        meaning="Neither a rate nor a hold time is known. The size is what a process may have, not what it needs.",
        signs="No --arrival-rate, --hold-time or measurement.",
        mistaken_for="A recommendation for this load.",
        remedy="Give --arrival-rate and --hold-time, or measure during the peak.",
        decided_by="A measurement under the peak.",
    ),
    FindingType(
        code="capacity-unknown",
        title="How many connections the database can use is not known",
        layer="application",
        reported_by=("recommend",),
        meaning="The database's capacity was neither given nor swept, so it does not bound the size.",
        signs="No --capacity, --sweep, --sweep-file or cores.",
        mistaken_for="A database without a limit.",
        remedy="Measure it with a sweep (--sweep, --sweep-file) of five to seven numbers of connections.",
        decided_by="A sweep.",
    ),
    FindingType(
        code="wait-target-missed",
        title="The size that is allowed misses the wait target",
        layer="application",
        reported_by=("recommend",),
        meaning="The budget, the database's capacity or the workers allow fewer connections than the wait target "
        "needs.",
        signs="More than 1 % of the acquires would wait longer than the target, or the queue would grow without end.",
        mistaken_for="A pool that is set too small: here the limit is elsewhere, and the finding names it.",
        remedy="Shorter holds, or more of what binds: slots for each process, a faster database, more workers.",
        decided_by="Trying the size (--verify).",
        is_moot="in a refusal",
    ),
    FindingType(
        code="verification-failed",
        title="The recommended size was tried and does not hold",
        layer="application",
        reported_by=("recommend",),
        meaning="poolctl ran the recommended size against the same load, in virtual time or on a server, and it did "
        "not hold. No size is given then, unless it only misses a wait target that was not given.",
        signs="Trial runs whose waits are longer than the target.",
        mistaken_for="A pool that is too small: the figures that the size rests on may be wrong.",
        remedy="Look at the trial runs; measure under the peak, or give the figures that are assumed.",
        decided_by="Measured figures in place of assumed ones.",
    ),
    # What the guard sees in a program.
    FindingType(
        code="left-to-the-collector",
        title="Connections come back by garbage collection alone",
        layer="application",
        reported_by=("guard",),
        meaning="Code drops connections without releasing them. The garbage collector finds them, and the library "
        "takes them back or closes them. Until then they are held, and when that is depends on chance.",
        signs="A ResourceWarning, or SQLAlchemy's error about a non-checked-in connection, in a test that has nothing "
        "to do with it; pools that are full now and then.",
        mistaken_for="A leak that heals: it is one, as long as something else refers to the connection.",
        remedy="Use the connection or session in a with block, or close it in finally.",
        decided_by="The line that acquired: whether any path of it releases.",
    ),
    FindingType(
        code="released-twice",
        title="A connection is released twice",
        layer="application",
        reported_by=("guard",),
        meaning="Code releases a connection that is in its pool already. If another caller has acquired it by then, "
        "the second release takes it away from that caller.",
        signs="PoolError or ValueError at release, or connections that two callers use at once.",
        mistaken_for="A release in an error path that is only there to be safe.",
        remedy="Leave the release to one place: a with block, or the outermost finally.",
        decided_by="The two lines that release.",
    ),
    FindingType(
        code="released-elsewhere",
        title="A connection is released by another thread than acquired it",
        layer="application",
        reported_by=("guard",),
        meaning="One thread acquires the connection and another one releases it. That is right where a connection is "
        "handed over, as frameworks do that run the parts of a request in a pool of threads. Where it is not meant, "
        "two threads use one connection, or a leak is hidden by the code that cleans up.",
        signs="None by itself.",
        mistaken_for="A connection released twice.",
        remedy="If no hand-over is meant, release in the thread that acquires: with a with block.",
        decided_by="The line that acquired it and the line that released it.",
    ),
    FindingType(
        code="used-after-release",
        title="A connection is used after it was released",
        layer="application",
        reported_by=("guard",),
        meaning="Code keeps a connection or cursor and uses it while it is in its pool. The next caller may get it at "
        "the same time, in whatever state this use leaves it.",
        signs="Transactions that contain statements of other code, or InterfaceError.",
        mistaken_for="A server that mixes up sessions.",
        remedy="Read the rows before the release, and let no connection or cursor outlive its with block.",
        decided_by="The line that uses it, and the line that acquired it.",
    ),
    FindingType(
        code="used-after-fork",
        title="A connection is used by a process that inherited it",
        layer="application",
        reported_by=("guard",),
        meaning="A pool or connection was opened before a fork and is used after it in the child. Both processes then "
        "write to one socket, and each reads the other's replies.",
        signs="Protocol errors, replies to other queries, or a pool whose threads are missing in the worker.",
        mistaken_for="A network fault.",
        remedy="Open the pool after the fork: in the worker's start hook (gunicorn post_fork, Celery "
        "worker_process_init), or dispose of the inherited one there (SQLAlchemy: engine.dispose(close=False)).",
        decided_by="The process ids of opening and use.",
    ),
    FindingType(
        code="pools-again-and-again",
        title="The same line creates one pool after another",
        layer="application",
        reported_by=("guard",),
        meaning="A pool is made for each request, task or reload instead of once for the process. Each opens its own "
        "connections, so no limit holds.",
        signs="Many pools from one line, each with few acquires; connections of the process above the pool's limit.",
        mistaken_for="A pool that is too large.",
        remedy="Create the pool once, when the process starts, and close it when the process ends.",
        decided_by="The number of pools from that line, and how many of them were closed.",
    ),
    FindingType(
        code="outside-any-pool",
        title="Connections are opened outside of any pool",
        layer="application",
        reported_by=("guard",),
        meaning="Code opens connections of its own beside a pool, or without one. No limit of a pool counts them.",
        signs="More connections on the server than the pools may open.",
        mistaken_for="A pool that opens more than its limit.",
        remedy="Take them from the pool, or count them in the budget of the server's slots.",
        decided_by="The line that opens them.",
    ),
    FindingType(
        code="no-connection-in-time",
        title="An acquire got no connection",
        layer="application",
        reported_by=("guard",),
        meaning="A caller waited for as long as it may, or was refused, while others held every connection of its "
        "pool.",
        signs="PoolTimeout, QueuePool limit ... reached, PoolError: connection pool exhausted.",
        mistaken_for="A pool that is too small: look at the holders first.",
        remedy="Look at the lines that held the connections: release them earlier, or make the pool larger if all of "
        "them did work.",
        decided_by="The lines that held the connections at that moment, and for how long.",
    ),
)

CATALOG: Mapping[str, FindingType] = {entry.code: entry for entry in _CATALOG}


def codes_of(has: Callable[[FindingType], object]) -> frozenset[str]:
    """Return the codes whose entry ``has`` a property."""
    return frozenset(entry.code for entry in _CATALOG if has(entry))


EXPLAIN_WAITS = codes_of(lambda entry: entry.explains_waits)
SLOW_EVERYTHING = codes_of(lambda entry: entry.slows_every_connection)
COME_BACK = codes_of(lambda entry: entry.comes_back)
NEED_NO_PRIVILEGE = codes_of(lambda entry: entry.needs_no_privilege)
REST_ON_POOLS = codes_of(lambda entry: entry.rests_on_pools)
MAY_HEAD_LOCKS = codes_of(lambda entry: entry.may_head_locks)
REST_ON_TIMES = codes_of(lambda entry: entry.rests_on_times)
MOOT_IN_REFUSAL = codes_of(lambda entry: entry.is_moot == "in a refusal")
MOOT_BESIDE_CAUSE = codes_of(lambda entry: entry.is_moot == "beside a cause")
RELIEF_ORDER = {entry.code: entry.relief_order for entry in _CATALOG if entry.relief_order}
"""Position of each code in the relief plan. The head of a lock queue comes first, since ending it frees the most; then
what no client works with any more; then what a client may still miss."""


def find(code: str) -> FindingType:
    """Return the entry of ``code``. Raises BadInput for an unknown code, with the near ones in its hint."""
    entry = CATALOG.get(code.strip().lower())
    if entry is None:
        near = get_close_matches(code.strip().lower(), CATALOG, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the codes are {', '.join(CATALOG)}"
        raise BadInput(f"there is no finding {code!r}", hint=hint)
    return entry


def describe(entry: FindingType) -> Iterator[tuple[str, str]]:
    """Yield the paragraphs about ``entry``, each with its heading, in the order in which people read them."""
    yield "Meaning", entry.meaning
    yield "Looks like", entry.signs
    yield "Mistaken for", entry.mistaken_for
    yield "Do", entry.remedy
    yield "Would decide", entry.decided_by
    also = []
    if entry.relief_order:
        also.append("poolctl inspect --relief may end the backends that it names, unless it is undetermined.")
    if entry.comes_back:
        also.append("Its connections come back by themselves, so the relief plan leaves them alone.")
    if entry.refuses_size is not None:
        also.append("poolctl recommend gives no size because of it: another size of the pool would not help.")
    if entry.needs_no_privilege:
        also.append("It is as sure without pg_monitor as with it.")
    if also:
        yield "Also", " ".join(also)


def explain(code: str, width: int = 80) -> str:
    """Return all that the catalog knows of ``code`` as text, wrapped to ``width`` columns. Raises BadInput."""
    entry = find(code)
    lines = wrap(f"{entry.code} ({entry.layer}): {entry.title}", width)
    lines += ["", f"{'Reported by':<14}{', '.join(entry.reported_by)}"]
    for heading, text in describe(entry):
        lines += wrap(f"{heading:<14}{text}", width, subsequent_indent=" " * 14, break_on_hyphens=False)
    lines += ["", "Example:", *EXAMPLES[entry.code].splitlines()]
    for statement in entry.sql:
        lines += ["", "Verify with SQL:" if statement == entry.sql[0] else "Or:", *statement.splitlines()]
    return "\n".join(lines)


_USUAL = ""


def build_finding(
    code: str,
    *,
    severity: Severity,
    confidence: Confidence,
    summary: str,
    evidence: Mapping[str, Any] | None = None,
    holders: tuple[Holder, ...] = (),
    remedy: str = _USUAL,
    frees: int = 0,
    decide_by: str | None = None,
    layer: Layer | None = None,
    evidence_sql: str | None = _USUAL,
) -> Finding:
    """Build a finding of this ``code``. What is not given is the catalog's: ``remedy``, ``layer``, ``evidence_sql``.

    ``evidence_sql`` None: there is no SQL for it, as in a sizing that rests on figures. Raises BadInput for a code
    that is not in the catalog.
    """
    entry = find(code)
    if evidence_sql == _USUAL:
        evidence_sql = entry.sql[0] if entry.sql else None
    return Finding(
        code=code,
        severity=severity,
        confidence=confidence,
        layer=layer or entry.layer,
        summary=summary,
        evidence=dict(evidence or {}),
        evidence_sql=evidence_sql,
        holders=holders,
        remedy=remedy or entry.remedy,
        frees=frees,
        decide_by=decide_by,
    )
