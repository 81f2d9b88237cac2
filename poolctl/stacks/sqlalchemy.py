"""SQLAlchemy's QueuePool. pool_size is what is kept, pool_size + max_overflow what the server may see."""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import format_seconds, round_seconds
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    lifetime, jitter = advice.max_lifetime, round(advice.jitter_time)
    # 0 would make the pool unlimited.
    kept = max(1, advice.max_idle)
    yield "import os" if lifetime is None or not jitter else "import os, random"
    yield "from sqlalchemy import create_engine"
    yield ""
    yield "engine = create_engine("
    yield '    os.environ["DATABASE_URL"],'
    yield f"    pool_size={kept},  # kept open; with max_overflow it is what each process may take"
    yield f"    max_overflow={advice.max_open - kept},  # closed at release: each use is a new connection"
    if advice.acquire_timeout is None:
        yield "    pool_timeout=None,  # waits for ever; not given it is 30 s"
    else:
        yield f"    pool_timeout={format_seconds(advice.acquire_timeout)},"
    if lifetime is None:
        yield "    pool_recycle=-1,  # off"
    elif jitter:
        yield f"    pool_recycle={round_seconds(lifetime)} - random.randrange({jitter}),  # no jitter of its own"
    else:
        yield f"    pool_recycle={round_seconds(lifetime)},"
    if advice.max_idle_time is None:
        yield "    # pool_pre_ping=True: a round trip an acquire, or else the first use after a failover fails"
        yield ")"
    else:
        yield "    pool_use_lifo=True,  # leaves the unused alone, and pre_ping (a round trip) notices if they died"
        yield "    pool_pre_ping=True,"
        yield ")"
        idle = format_seconds(advice.max_idle_time)
        yield f"# It closes nothing unused: the server's idle_session_timeout would, after {idle} s."


STACK = Stack(
    name="sqlalchemy",
    library="SQLAlchemy 2.0 and 2.1 QueuePool",
    file="db.py",
    aliases=("sqla", "flask-sqlalchemy", "sqlmodel"),
    write=_write,
)
