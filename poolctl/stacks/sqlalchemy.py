"""SQLAlchemy's QueuePool. It keeps pool_size connections; the server sees up to pool_size + max_overflow."""

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
    yield f"    pool_size={kept},  # kept open; pool_size + max_overflow is the most"
    yield f"    max_overflow={advice.max_open - kept},  # closed at release: each use opens a new connection"
    if advice.acquire_timeout is None:
        yield "    pool_timeout=None,  # waits without a limit; default 30 s"
    else:
        yield f"    pool_timeout={format_seconds(advice.acquire_timeout)},"
    if lifetime is None:
        yield "    pool_recycle=-1,  # off"
    elif jitter:
        yield f"    pool_recycle={round_seconds(lifetime)} - random.randrange({jitter}),  # the pool has no jitter"
    else:
        yield f"    pool_recycle={round_seconds(lifetime)},"
    if advice.max_idle_time is None:
        yield "    # pool_pre_ping=True finds dead connections; it costs a round trip for each acquire"
        yield ")"
    else:
        yield "    pool_use_lifo=True,  # the pool reuses the newest; pre_ping (a round trip) finds dead ones"
        yield "    pool_pre_ping=True,"
        yield ")"
        idle = format_seconds(advice.max_idle_time)
        yield f"# The pool closes no unused connection. Set idle_session_timeout on the server to {idle} s for that."


STACK = Stack(
    name="sqlalchemy",
    library="SQLAlchemy 2.0 and 2.1 QueuePool",
    file="db.py",
    aliases=("sqla", "flask-sqlalchemy", "sqlmodel"),
    write=_write,
)
