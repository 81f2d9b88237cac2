"""Go's database/sql, and GORM on top of it.

The order of the setters matters: SetMaxOpenConns lowers the idle limit permanently if it is the smaller one. Up to Go
1.24, an idle time that is set after the lifetime, while a connection is open, has no effect before the lifetime's next
timer (golang/go issue 45993).
"""

from collections.abc import Iterator

from poolctl.stacks.settings import PoolAdvice
from poolctl.stacks.spelling import format_go_duration
from poolctl.stacks.stack import Stack


def _write(advice: PoolAdvice) -> Iterator[str]:
    yield "// Right after sql.Open, before the first query, in this order."
    yield f"db.SetMaxOpenConns({advice.max_open})"
    yield "// Default 2: with more in use, each release closes a connection."
    yield f"db.SetMaxIdleConns({advice.max_idle})"
    if advice.max_lifetime is None:
        yield "db.SetConnMaxLifetime(0) // off"
    elif advice.jitter_time:
        lifetime = _within(format_go_duration(advice.max_lifetime))
        yield "// database/sql has no jitter: each process draws its own lifetime (rand is math/rand/v2)."
        drawn = _within(format_go_duration(advice.jitter_time))
        yield f"db.SetConnMaxLifetime({lifetime} - rand.N({drawn}))"
    else:
        yield f"db.SetConnMaxLifetime({format_go_duration(advice.max_lifetime)})"
    if advice.max_idle_time is None:
        yield "db.SetConnMaxIdleTime(0) // off"
    else:
        yield f"db.SetConnMaxIdleTime({format_go_duration(advice.max_idle_time)})"
    if advice.acquire_timeout is None:
        yield "// An acquire waits until the context of its caller ends."
    else:
        yield "// Only the context of the caller limits the wait for a connection; it limits the query, too:"
        yield f"//   ctx, cancel := context.WithTimeout(ctx, {_within(format_go_duration(advice.acquire_timeout))})"
        yield "//   defer cancel()"
    if advice.min_idle:
        yield f"// No setting keeps {advice.min_idle} connections open: they open with the first requests."


def _write_gorm(advice: PoolAdvice) -> Iterator[str]:
    yield "// GORM has no pool of its own: these are the limits of the database/sql pool below it."
    yield "sqlDB, err := gormDB.DB()"
    yield "if err != nil {"
    yield "\tlog.Fatal(err)"
    yield "}"
    for line in _write(advice):
        if not line.startswith("// Right after"):
            yield line.replace("db.Set", "sqlDB.Set")


def _within(expression: str) -> str:
    """Format an expression as gofmt does inside another expression."""
    return expression.replace(" ", "")


STACK = Stack(
    name="database/sql",
    library="Go 1.22 to 1.27",
    file="main.go",
    comment="//",
    aliases=("go", "golang", "go-sql", "gosql", "database-sql", "lib/pq"),
    write=_write,
)
GORM = Stack(
    name="gorm",
    library="GORM 1.25 and later",
    file="main.go",
    comment="//",
    aliases=("go-gorm", "gorm.io"),
    write=_write_gorm,
)
